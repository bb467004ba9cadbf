"""Discrete sources whose entropies are known exactly: Markov chains, hidden Markov sources, a grammar.

No model's cross-entropy on a source can be below its entropy rate, and none that sees the last tau tokens
below H_tau = H(x_{tau + 1} | x_1 ... x_tau). Everything here is float64 on the host; `models.sources` puts a
source under the contract, where it is scored, rolled out and sampled like any other model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

MOST_CONTEXTS = 1 << 22  # entries of a table or an enumeration that are held at once
NOISE = 0.1  # share of tokens of a random chain that depend on nothing


class MarkovChain(NamedTuple):
    """A stationary chain of order m over V symbols: table[c_1, ..., c_m, x] = P(x | c_1 ... c_m), float64.

    c_m is the latest; of order 0 the table is (V,).
    """

    table: Float[np.ndarray, "*contexts vocab"]

    @property
    def order(self) -> int:
        """m, the tokens that a prediction depends on."""
        return self.table.ndim - 1

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.table.shape[-1]


class HiddenMarkov(NamedTuple):
    """A source with S hidden states: h_1 is drawn from `initial`, then x_t from emission[h_t] and h_{t+1}
    from transition[h_t].

    initial (S,), transition (S, S), emission (S, V): rows that sum to one, float64.
    """

    initial: Float[np.ndarray, "state"]
    transition: Float[np.ndarray, "state state"]
    emission: Float[np.ndarray, "state vocab"]

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.emission.shape[1]


def random_chain(
    rng: np.random.Generator, vocab_size: int, order: int, concentration: float = 4.0
) -> MarkovChain:
    """A chain of which each token of memory tells something: a hierarchy of Dirichlet distributions.

    P(. | c_1 ... c_j) is drawn around P(. | c_2 ... c_j), with `concentration` as the sum of its Dirichlet
    parameters (MacKay and Peto 1995); the unigrams, with V times it, around the uniform distribution. One
    token in ten is any at all, so that every context comes. Raises ValueError for sizes out of range.
    """
    if vocab_size < 2 or order < 0 or vocab_size ** (order + 1) > MOST_CONTEXTS:
        raise ValueError(
            f"expected vocab_size of at least 2, order of at least 0 and at most {MOST_CONTEXTS} entries, "
            f"got {vocab_size} and {order}"
        )
    if not 0.0 < concentration < np.inf:
        raise ValueError(f"expected a positive concentration, got {concentration}")
    table = np.full(vocab_size, 1.0 / vocab_size)
    for length in range(order + 1):
        alpha = concentration * table * (1 if length else vocab_size)
        drawn = rng.gamma(np.broadcast_to(alpha, (vocab_size,) * (length + 1))) + 1e-9
        table = drawn / drawn.sum(axis=-1, keepdims=True)
    return MarkovChain((1.0 - NOISE) * table + NOISE / vocab_size)


def context_law(chain: MarkovChain) -> Float[np.ndarray, "*contexts"]:
    """Stationary law of the last m tokens, (V, ..., V) of m axes, by power iteration to 1e-15.

    Raises ValueError for a chain that does not settle, such as a periodic one.
    """
    law = np.full(chain.table.shape[:-1], chain.vocab_size ** -float(chain.order))
    for _ in range(100_000):
        later = _advance(chain, law)
        if np.abs(later - law).sum() < 1e-15 * chain.vocab_size:
            return later
        law = later
    raise ValueError(
        "expected a chain with one stationary law that it tends to, got one that does not settle"
    )


def _advance(chain: MarkovChain, law: Float[np.ndarray, "*contexts"]) -> Float[np.ndarray, "*contexts"]:
    """The law of contexts one step on."""
    if not chain.order:
        return law
    later = (law[..., None] * chain.table).sum(axis=0)
    return later / later.sum()


def entropy(law: Float[np.ndarray, "..."]) -> float:
    """-sum p ln p in nats, with 0 ln 0 = 0."""
    positive = law[law > 0.0]
    return float(-np.sum(positive * np.log(positive)))


def shorter_tables(chain: MarkovChain) -> list[Float[np.ndarray, "*contexts vocab"]]:
    """P(x | the j tokens before) in the stationary chain, of j = 0 ... m; uniform after what never comes."""
    joint = context_law(chain)[..., None] * chain.table
    tables = []
    for length in range(chain.order + 1):
        joint_short = joint.sum(axis=tuple(range(chain.order - length)))
        context = joint_short.sum(axis=-1, keepdims=True)
        uniform = np.full_like(joint_short, 1.0 / chain.vocab_size)
        tables.append(np.divide(joint_short, context, out=uniform, where=context > 0.0))
    return tables


def chain_entropies(chain: MarkovChain, longest: int) -> Float[np.ndarray, "tau"]:
    """H_tau = H(x_{tau+1} | x_1 ... x_tau) in nats for tau = 0 ... longest; from tau = m on, the rate."""
    joint = context_law(chain)[..., None] * chain.table
    found = []
    for tau in range(min(longest, chain.order) + 1):
        block = joint.sum(axis=tuple(range(chain.order - tau)))
        found.append(entropy(block) - entropy(block.sum(axis=-1, keepdims=True)))
    return np.array(found + [found[-1]] * (longest - chain.order))


def k_step_entropies(chain: MarkovChain, longest: int) -> Float[np.ndarray, "horizon"]:
    """H(x_{t+k} | x_1 ... x_t) in nats for k = 1 ... longest: the least k-step-ahead cross-entropy.

    Raises ValueError for a chain with more than 4,096 contexts, whose transitions would not fit.
    """
    size = chain.vocab_size**chain.order
    if size > 4096:
        raise ValueError(f"expected at most 4096 contexts, got {size}")
    law, flat = context_law(chain).reshape(-1), chain.table.reshape(size, -1)
    later = (np.arange(size)[:, None] * chain.vocab_size + np.arange(chain.vocab_size)) % size
    transition = np.zeros((size, size))
    np.add.at(transition, (np.arange(size)[:, None], later), flat)
    reached, found = np.eye(size), []
    for _ in range(longest):
        ahead = reached @ flat
        found.append(sum(p * entropy(row) for p, row in zip(law, ahead, strict=True)))
        reached = reached @ transition
    return np.array(found)


def stationary_law(transition: Float[np.ndarray, "state state"]) -> Float[np.ndarray, "state"]:
    """The law pi with pi P = pi, of an irreducible matrix: the solution of a linear system."""
    size = len(transition)
    system = np.vstack([transition.T - np.eye(size), np.ones(size)])
    law = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return np.maximum(law, 0.0) / np.maximum(law, 0.0).sum()


def random_hidden_markov(
    rng: np.random.Generator, num_states: int, vocab_size: int, stay: float, accuracy: float
) -> HiddenMarkov:
    """A source that stays in a state with probability `stay` and mostly emits the state's own symbols.

    From a state it moves to the others with Dirichlet(1) shares. Symbol x belongs to state x mod S; with
    probability `accuracy` one of the state's own comes, else any. Raises ValueError for sizes out of range.
    """
    if not 2 <= num_states <= vocab_size or not (0.0 <= stay < 1.0 and 0.0 <= accuracy < 1.0):
        raise ValueError(
            "expected num_states of at least 2, vocab_size no less, stay and accuracy in [0, 1), got "
            f"{num_states}, {vocab_size}, {stay}, {accuracy}"
        )
    moves = np.zeros((num_states, num_states))
    others = ~np.eye(num_states, dtype=bool)
    moves[others] = rng.dirichlet(np.ones(num_states - 1), num_states).reshape(-1)
    transition = stay * np.eye(num_states) + (1.0 - stay) * moves
    own = np.arange(vocab_size)[None] % num_states == np.arange(num_states)[:, None]
    emission = accuracy * own / own.sum(axis=1, keepdims=True) + (1.0 - accuracy) / vocab_size
    return HiddenMarkov(stationary_law(transition), transition, emission)


class Brackets(NamedTuple):
    """Bounds of an entropy rate in nats by tau = 0 ... longest, float64: lower <= rate <= upper = H_tau."""

    lower: Float[np.ndarray, "tau"]
    upper: Float[np.ndarray, "tau"]


def entropy_brackets(source: HiddenMarkov, longest: int) -> Brackets:
    """H(x_{tau+1} | x_1 ... x_tau, h_1) <= H <= H(x_{tau+1} | x_1 ... x_tau), all strings enumerated.

    Both close in on the rate of a stationary source (Cover and Thomas 2006, theorem 4.5.1). Raises
    ValueError for an initial law that is not stationary, and where S^2 V^(longest + 1) is too many.
    """
    size, vocab_size = source.emission.shape
    if np.abs(source.initial @ source.transition - source.initial).max() > 1e-9:
        raise ValueError("expected a source that begins with its stationary law")
    if size * size * vocab_size ** (longest + 1) > 64 * MOST_CONTEXTS:
        raise ValueError(f"expected fewer strings than {vocab_size}^{longest + 1} to enumerate")
    bounds = []
    for start in (np.diag(source.initial), source.initial[None]):
        # (strings so far, S): joint probability of the string and the state that comes next.
        joint, blocks = start, [entropy(start.sum(axis=1))]
        for _ in range(longest + 1):
            emitted = (joint[:, None, :] * source.emission.T[None]).reshape(-1, size)
            blocks.append(entropy(emitted.sum(axis=1)))
            joint = emitted @ source.transition
        bounds.append(np.diff(blocks))
    return Brackets(*bounds)


class Grammar(NamedTuple):
    """A source of sentences, and its words by part: `words[x]` spells symbol x.

    nouns, verbs: ids of each synonym class, (C, n); any noun of a class goes with any verb of it, and no
    other. subjects, agreeing: ids of the words of each number, (2, n); they agree at a distance. period: the
    id of what ends a sentence.
    """

    source: HiddenMarkov
    words: tuple[str, ...]
    nouns: Int[np.ndarray, "cls word"]
    verbs: Int[np.ndarray, "cls word"]
    subjects: Int[np.ndarray, "number word"]
    agreeing: Int[np.ndarray, "number word"]
    fillers: Int[np.ndarray, "word"]
    period: int


def make_grammar(
    num_classes: int = 5,
    num_synonyms: int = 20,
    num_fillers: int = 20,
    distances: Sequence[int] = (5, 10, 20, 35, 50),
    agreement_share: float = 0.1,
) -> Grammar:
    """Sentences `noun verb .` within a synonym class, and `subject filler ... filler verb .` that agree.

    In the second kind, a share of all sentences, the verb has the number of the subject d words before it,
    each of the `distances` as likely. A hidden state is a place in a sentence, so that the forward algorithm
    gives every conditional probability exactly. Raises ValueError for sizes or distances out of range.
    """
    farthest = max(distances, default=0)
    if min(num_classes, num_synonyms, num_fillers) < 1 or min(distances, default=0) < 2:
        raise ValueError("expected classes, synonyms, fillers, and distances of at least 2")
    if len(set(distances)) < len(distances) or not 0.0 < agreement_share < 1.0:
        raise ValueError("expected distances each once, and an agreement_share between 0 and 1")
    parts = [f"noun{c}" for c in range(num_classes)] + [f"verb{c}" for c in range(num_classes)]
    parts += ["one", "many", "does", "do"]
    words = [f"{part}-{i}" for part in parts for i in range(num_synonyms)]
    ids = np.arange(len(words)).reshape(len(parts), num_synonyms)
    fillers, period = len(words) + np.arange(num_fillers), len(words) + num_fillers
    words += [f"and-{i}" for i in range(num_fillers)] + ["."]

    names = ["end", *parts, *(f"{n}{j}" for n in ("one", "many") for j in range(1, farthest))]
    place = {name: i for i, name in enumerate(names)}
    transition, emission = np.zeros((len(names),) * 2), np.zeros((len(names), len(words)))
    emission[0, period] = 1.0
    for part, own in zip(parts, ids, strict=True):
        emission[place[part], own] = 1.0 / num_synonyms
    for c in range(num_classes):
        transition[0, place[f"noun{c}"]] = (1.0 - agreement_share) / num_classes
        transition[place[f"noun{c}"], place[f"verb{c}"]] = transition[place[f"verb{c}"], 0] = 1.0
    for number, verb in (("one", "does"), ("many", "do")):
        transition[0, place[number]], transition[place[verb], 0] = agreement_share / 2, 1.0
        transition[place[number], place[f"{number}1"]] = 1.0
        for j in range(1, farthest):  # j fillers came: the verb would be at distance j + 1
            here, left = place[f"{number}{j}"], sum(d > j for d in distances)
            emission[here, fillers] = 1.0 / num_fillers
            transition[here, place[verb]] = ends = (j + 1 in distances) / left
            if j + 1 < farthest:
                transition[here, place[f"{number}{j + 1}"]] = 1.0 - ends
    source = HiddenMarkov(transition[0], transition, emission)  # a text begins with a sentence
    cut = 2 * num_classes
    nouns, verbs = ids[:num_classes], ids[num_classes:cut]
    return Grammar(source, tuple(words), nouns, verbs, ids[cut : cut + 2], ids[cut + 2 :], fillers, period)


def agreement_pairs(
    rng: np.random.Generator, grammar: Grammar, distance: int, number: int
) -> tuple[Int[np.ndarray, "pair word"], Int[np.ndarray, "pair word"]]:
    """Sentences (N, d + 2) whose verb agrees with the subject d words before it, and with a wrong verb.

    Both numbers are as likely. The two verbs have one place among the words of their number, and all else is
    equal, so that what does not see the subject cannot tell them apart on average. A distance that the
    grammar itself does not make is as good as any other. Raises ValueError for a distance below 1.
    """
    if distance < 1 or number < 1:
        raise ValueError(f"expected a distance and a number of at least 1, got {distance} and {number}")
    which = rng.integers(2, size=number)
    subject = rng.choice(grammar.subjects.shape[1], number)
    verb = rng.choice(grammar.agreeing.shape[1], number)
    fillers = rng.choice(grammar.fillers, (number, distance - 1))
    period = np.full(number, grammar.period)
    begin = [grammar.subjects[which, subject], *fillers.T]
    right, wrong = grammar.agreeing[which, verb], grammar.agreeing[1 - which, verb]
    return np.stack([*begin, right, period], axis=1), np.stack([*begin, wrong, period], axis=1)

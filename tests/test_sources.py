"""Sources of known entropy against enumeration, closed forms, and long samples of their own."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import generation, rollout, scoring
from lmseq.data import sources
from lmseq.data.sources import HiddenMarkov, MarkovChain
from lmseq.models.sources import put_source
from tests.oracles import all_strings, conditional_entropy

NOTHING = np.zeros(0, np.int32)
PERIODIC = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])


def string_probs(chain: MarkovChain, length: int) -> np.ndarray:
    """P of every string of a stationary chain, token by token from the law of its contexts."""
    law, size = sources.context_law(chain), chain.vocab_size
    probs = []
    for string in all_strings(size, length + chain.order):
        p = law[tuple(string[: chain.order])]
        for t in range(chain.order, len(string)):
            p = p * chain.table[tuple(string[t - chain.order : t + 1])]
        probs.append(p)
    # The last `length` tokens, whatever the context was.
    return np.array(probs).reshape(size**chain.order, -1).sum(axis=0)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 3), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_chain_entropies_are_those_of_all_strings(vocab_size, order, seed):
    chain = sources.random_chain(np.random.default_rng(seed), vocab_size, order)
    blocks = [0.0, *(sources.entropy(string_probs(chain, n)) for n in range(1, order + 3))]
    np.testing.assert_allclose(sources.chain_entropies(chain, order + 1), np.diff(blocks), atol=1e-12)
    falling = np.diff(sources.chain_entropies(chain, order + 2))
    assert (falling <= 1e-12).all() and abs(falling[order:]).max() < 1e-12


def test_entropies_of_an_order_one_chain_are_the_closed_forms():
    chain = sources.random_chain(np.random.default_rng(3), 4, 1)
    ahead = [conditional_entropy(chain.table, k) for k in (1, 2, 3, 10)]
    found = sources.k_step_entropies(chain, 10)
    np.testing.assert_allclose(found[[0, 1, 2, 9]], ahead, atol=1e-12)
    assert sources.chain_entropies(chain, 1)[1] == pytest.approx(ahead[0], abs=1e-12)


def test_k_step_entropies_of_higher_orders_by_enumeration():
    chain = sources.random_chain(np.random.default_rng(4), 2, 2)
    law, expected = sources.context_law(chain), []
    for k in (1, 2, 3):
        total = 0.0
        for context in itertools.product(range(2), repeat=2):
            last = np.zeros(2)
            for string in itertools.product(range(2), repeat=k):
                whole = (*context, *string)
                last[string[-1]] += math.prod(chain.table[whole[t : t + 3]] for t in range(k))
            total += law[context] * sources.entropy(last)
        expected.append(total)
    np.testing.assert_allclose(sources.k_step_entropies(chain, 3), expected, atol=1e-12)


def path_prob(source: HiddenMarkov, tokens: np.ndarray) -> float:
    """P of a string, summed over all paths of hidden states."""
    total = 0.0
    for path in itertools.product(range(len(source.initial)), repeat=len(tokens)):
        p = source.initial[path[0]] * source.emission[path[0], tokens[0]]
        for t in range(1, len(tokens)):
            p *= source.transition[path[t - 1], path[t]] * source.emission[path[t], tokens[t]]
        total += p
    return total


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 3), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_the_forward_algorithm_sums_over_hidden_paths(num_states, more_symbols, seed):
    rng = np.random.default_rng(seed)
    source = sources.random_hidden_markov(rng, num_states, num_states + more_symbols, 0.7, 0.5)
    tokens = rng.integers(source.vocab_size, size=5).astype(np.int32)
    log_prob = float(scoring.score(*put_source(source), tokens).sum())
    assert log_prob == pytest.approx(math.log(path_prob(source, tokens)), abs=1e-5)


def test_brackets_close_in_on_the_rate():
    source = sources.random_hidden_markov(np.random.default_rng(1), 2, 3, 0.9, 0.7)
    bounds = sources.entropy_brackets(source, 9)
    assert (np.diff(bounds.upper) <= 1e-12).all() and (np.diff(bounds.lower) >= -1e-12).all()
    assert (bounds.lower <= bounds.upper + 1e-12).all() and bounds.upper[-1] - bounds.lower[-1] < 1e-3
    # By enumeration of hidden paths too: H of blocks of two and three.
    blocks = [
        sources.entropy(np.array([path_prob(source, string) for string in all_strings(3, n)])) for n in (2, 3)
    ]
    assert bounds.upper[2] == pytest.approx(blocks[1] - blocks[0], abs=1e-12)
    # With states that can be seen, the source is a chain, whose rate is the lower bound from one token on.
    seen = HiddenMarkov(source.initial, source.transition, np.eye(2))
    assert sources.entropy_brackets(seen, 3).upper[1] == pytest.approx(
        conditional_entropy(source.transition, 1)
    )


@pytest.mark.parametrize("kind", ["chain", "hidden"])
def test_a_long_sample_has_the_entropy_rate(kind):
    rng = np.random.default_rng(5)
    if kind == "chain":
        source = sources.random_chain(rng, 4, 3)
        rate = sources.chain_entropies(source, 3)[-1]
    else:
        source = sources.random_hidden_markov(rng, 2, 3, 0.9, 0.7)
        rate = sources.entropy_brackets(source, 12).upper[-1]
    model, params = put_source(source)
    tokens = generation.generate(jax.random.key(0), model, params, NOTHING, num_tokens=300_000)
    losses = -scoring.score_stream(model, params, tokens)
    blocks = np.array_split(losses, 50)
    error = np.std([block.mean() for block in blocks], ddof=1) / math.sqrt(50)
    assert abs(losses.mean(dtype=np.float64) - rate) < 4 * error < 0.02 * rate
    # A stationary source: the first half has the frequencies of the second.
    first, second = (np.bincount(half, minlength=3) / len(half) for half in np.array_split(tokens, 2))
    assert np.abs(first - second).max() < 0.02


def test_the_first_tokens_of_a_chain_come_from_its_stationary_law():
    chain = sources.random_chain(np.random.default_rng(6), 3, 2)
    strings = all_strings(3, 4)
    log_probs = scoring.sequence_log_probs(*put_source(chain), jnp.asarray(strings)).sum(axis=1)
    np.testing.assert_allclose(np.exp(log_probs), string_probs(chain, 4), rtol=1e-5)


@pytest.fixture(scope="module")
def grammar():
    return sources.make_grammar(
        num_classes=2, num_synonyms=3, num_fillers=2, distances=(2, 4), agreement_share=0.3
    )


def after(grammar, *words: int) -> np.ndarray:
    """P of each word after some, from the beginning of a sentence."""
    model, params = put_source(grammar.source)
    carry = model.init_carry(params, 1)
    for word in words:
        carry = model.update(params, carry, jnp.array([word]))
    return np.exp(model.readout(params, carry)[0])


def test_any_verb_of_a_class_follows_any_noun_of_it(grammar):
    for c in range(2):
        for noun in grammar.nouns[c]:
            found = after(grammar, noun)
            np.testing.assert_allclose(found[grammar.verbs[c]], 1 / 3, rtol=1e-6)
            assert found.sum() == pytest.approx(1.0, rel=1e-6)
            assert after(grammar, noun, grammar.verbs[c, 0])[grammar.period] == pytest.approx(1.0)


def test_verbs_agree_at_each_distance_and_no_other(grammar):
    filler = grammar.fillers[0]
    for number in range(2):
        subject, right, wrong = (
            grammar.subjects[number, 0],
            grammar.agreeing[number],
            grammar.agreeing[1 - number],
        )
        for num_fillers, share in ((0, 0.0), (1, 0.5), (2, 0.0), (3, 1.0)):
            found = after(grammar, subject, *[filler] * num_fillers)
            assert found[right].sum() == pytest.approx(share, abs=1e-6)
            assert found[wrong].sum() == 0.0
    assert after(grammar)[grammar.subjects].sum() == pytest.approx(0.3)
    assert len(grammar.words) == grammar.source.vocab_size == len(set(grammar.words))


def test_what_cannot_come_has_probability_zero_and_no_nan(grammar):
    model, params = put_source(grammar.source)
    impossible = np.array([grammar.period, grammar.period, grammar.nouns[0, 0]], np.int32)
    log_probs = np.asarray(scoring.score(model, params, impossible))
    assert np.isneginf(log_probs).any() and not np.isnan(log_probs).any()


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda rng: sources.random_chain(rng, 1, 2), "vocab_size"),
        (lambda rng: sources.random_chain(rng, 50, 8), "entries"),
        (lambda rng: sources.random_chain(rng, 3, 1, -1.0), "concentration"),
        (lambda rng: sources.random_hidden_markov(rng, 4, 3, 0.5, 0.5), "states"),
        (lambda rng: sources.random_hidden_markov(rng, 2, 3, 1.0, 0.5), "stay"),
        (lambda rng: sources.make_grammar(distances=(1, 5)), "distances"),
        (lambda rng: sources.make_grammar(distances=(5, 5)), "distances"),
        (lambda rng: sources.k_step_entropies(sources.random_chain(rng, 5, 6), 2), "contexts"),
        (lambda rng: sources.entropy_brackets(sources.make_grammar().source, 2), "stationary"),
        (
            lambda rng: sources.entropy_brackets(sources.random_hidden_markov(rng, 2, 9, 0.5, 0.5), 20),
            "enumerate",
        ),
        (lambda rng: sources.context_law(MarkovChain(PERIODIC)), "settle"),
    ],
)
def test_refuses(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(np.random.default_rng(0))


def test_k_steps_ahead_the_truth_has_its_exact_cross_entropy():
    """The same rollout that measures nets, on a model whose figure is known."""
    chain = sources.random_chain(np.random.default_rng(8), 3, 2)
    model, params = put_source(chain)
    tokens = generation.generate(jax.random.key(1), model, params, NOTHING, num_tokens=60_000)
    log_probs = rollout.k_step_log_probs(
        jax.random.key(2), model, params, tokens, max_horizon=6, num_origins=4000, num_samples=100
    )
    error = log_probs.std(axis=0) / math.sqrt(len(log_probs))
    exact = sources.k_step_entropies(chain, 6)
    assert (np.abs(-log_probs.mean(axis=0) - exact) < 4 * error).all() and (4 * error < 0.1 * exact).all()

"""What models are held against: a known Markov chain under the contract, exact figures, small models."""

import itertools
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int

from lmseq.config.language_model import LanguageModelConfig, ModelConfig
from lmseq.config.mixers import is_stack
from lmseq.contract import Model, StepModel
from lmseq.data import sources
from lmseq.data.partition import epoch_plan
from lmseq.models.build import build_model
from lmseq.models.dynamic import Dynamic, DynamicParams
from lmseq.models.following import Following, FollowingParams
from lmseq.models.mixture import Mixture, MixtureParams, with_cache
from lmseq.models.ngram import put_tables
from lmseq.models.sources import put_source
from lmseq.ngram.counts import EOS_ID, FIRST_WORD_ID, count_ngrams, mark_sentences
from lmseq.ngram.smoothing import epsilon, modified_kneser_ney
from lmseq.recurrence.cells import CELLS
from lmseq.recurrence.cells.cell import Cell, GateSteps, LayerState, Recurrent
from lmseq.training.loop import PlanStream
from lmseq.types import Carry, LogProbs, Params, PRNGKey


@dataclass(frozen=True)
class MarkovChain(StepModel):
    """x_1 from `initial`, x_{t+1} from row x_t of `transition`; both are the parameters, as logarithms.

    The carry is the last token, or vocab_size when there is none yet.
    """

    vocab_size: int

    def init(self, key: PRNGKey) -> Params:
        rows = jax.random.dirichlet(key, jnp.ones(self.vocab_size), (self.vocab_size + 1,))
        return {"initial": jnp.log(rows[0]), "transition": jnp.log(rows[1:])}

    def init_carry(self, params: Params, batch_size: int) -> Int[Array, "batch"]:
        return jnp.full(batch_size, self.vocab_size, jnp.int32)

    def update(self, params: Params, carry: Carry, x: Int[Array, "batch"]) -> Int[Array, "batch"]:
        return x

    def readout(self, params: Params, carry: Int[Array, "batch"]) -> LogProbs:
        return jnp.concatenate([params["transition"], params["initial"][None]])[carry]


class Counter(MarkovChain):
    """A model that never forgets: each token's weight depends on the sum of all tokens before, mod V."""

    def init_carry(self, params: Params, batch_size: int) -> Int[Array, "batch"]:
        return jnp.zeros(batch_size, jnp.int32)

    def update(
        self, params: Params, carry: Int[Array, "batch"], x: Int[Array, "batch"]
    ) -> Int[Array, "batch"]:
        return (carry + x) % self.vocab_size


def chain_params(initial: np.ndarray, transition: np.ndarray) -> Params:
    """Parameters of a MarkovChain from probabilities."""
    with np.errstate(divide="ignore"):
        return {
            "initial": jnp.asarray(np.log(initial), jnp.float32),
            "transition": jnp.asarray(np.log(transition), jnp.float32),
        }


def stationary(transition: np.ndarray) -> np.ndarray:
    """pi with pi P = pi."""
    size = len(transition)
    equations = np.vstack([transition.T - np.eye(size), np.ones(size)])
    return np.linalg.lstsq(equations, np.append(np.zeros(size), 1.0), rcond=None)[0]


def conditional_entropy(transition: np.ndarray, k: int) -> float:
    """H(x_{t+k} | x_t) = - sum_i pi_i sum_j (P^k)_ij log (P^k)_ij, nats."""
    power = np.linalg.matrix_power(transition, k)
    terms = np.where(power > 0, power * np.log(np.where(power > 0, power, 1.0)), 0.0)
    return -float(stationary(transition) @ terms.sum(axis=1))


def sample_chain(rng: np.random.Generator, transition: np.ndarray, length: int) -> np.ndarray:
    """A stream of the chain in its stationary law."""
    tokens = np.empty(length, np.int32)
    tokens[0] = rng.choice(len(transition), p=stationary(transition))
    for t in range(1, length):
        tokens[t] = rng.choice(len(transition), p=transition[tokens[t - 1]])
    return tokens


def random_stream(length: int, seed: int = 0, vocab_size: int = 3) -> np.ndarray:
    """Tokens drawn evenly and independently."""
    return np.random.default_rng(seed).integers(vocab_size, size=length).astype(np.int32)


def all_strings(vocab_size: int, length: int) -> np.ndarray:
    """Every string over 0 ... V - 1, (V^T, T)."""
    return np.array(list(itertools.product(range(vocab_size), repeat=length)), np.int32)


def text_plans(config: LanguageModelConfig, num_tokens: int) -> PlanStream:
    """The batches of a run on a text of so many tokens."""
    data, seed = config.data, config.train.seed
    return PlanStream(
        lambda epoch: epoch_plan(
            data.partition,
            num_tokens,
            data.num_steps,
            data.batch_size,
            seed,
            epoch,
            random=data.random_windows,
        )
    )


every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


def cell_inputs(
    cell: Cell, time: int, batch: int, hidden: int, seed: int = 0, dtype: type = np.float32
) -> tuple[Recurrent | None, LayerState, GateSteps]:
    """Weights that keep a state in bounds, a state that is not zero, and projected inputs (T, B, G * H)."""
    rng, gates = np.random.default_rng(seed), cell.num_gates * hidden

    def draw(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape).astype(dtype))

    kernel = draw(hidden, gates) / hidden**0.5 if cell.has_kernel else None
    bias = draw(hidden) if cell.has_bias else None
    weights = None if kernel is None and bias is None else Recurrent(kernel, bias)
    state = jax.tree.map(lambda leaf: draw(*leaf.shape), cell.init_state(batch, hidden))
    return weights, state, draw(time, batch, gates)


KINDS: dict[str, ModelConfig] = {
    **{cell.name: ModelConfig(model=cell.name, hidden_size=5) for cell in CELLS},
    "mlp": ModelConfig(model="mlp", hidden_size=6, num_layers=2, embedding_size=4, tau=3),
    "linear": ModelConfig(model="linear", embedding_size=4, tau=3),
    "gru, two layers, embedding": ModelConfig(model="gru", hidden_size=5, num_layers=2, embedding_size=2),
    "lstm, two layers": ModelConfig(model="lstm", hidden_size=4, num_layers=2, last_size=3),
    "minlstm, two layers": ModelConfig(model="minlstm", hidden_size=4, num_layers=2, embedding_size=7),
    "attention": ModelConfig(
        model="attention", hidden_size=8, num_layers=2, num_heads=2, num_key_heads=1, window=3
    ),
    "gated_deltanet": ModelConfig(
        model="gated_deltanet", hidden_size=6, num_heads=2, value_size=2, chunk=2, feed_forward="gated"
    ),
    "gru, gla, attention": ModelConfig(
        model="stack", layers="gru,gla,attention", hidden_size=4, num_heads=2, window=4, tie_embeddings=True
    ),
    "lstm, tied by a projection": ModelConfig(
        model="lstm", hidden_size=6, embedding_size=4, tie_embeddings=True
    ),
    "gru, tied": ModelConfig(model="gru", hidden_size=6, embedding_size=6, tie_embeddings=True),
}
COUNTS = ("trigram", "trigram of lines", "epsilon, straight to unigrams")
MADE_OF_MODELS = ("mixture", "unigram cache", "neural cache", "following mixture", "dynamic")
ALL = (*KINDS, "chain", "trigram of lines", "neural cache")
SOURCES = ("chain of order 2", "hidden Markov source")
# For the tests of the contract itself.
EVERY = (*ALL, "epsilon, straight to unigrams", "mixture", "following mixture", "dynamic", *SOURCES)


def counted(kind: str, vocab_size: int) -> tuple[Model, Params]:
    """Counts of a short random text under the contract: of V symbols, or of V - 1 and the end of a line."""
    rng = np.random.default_rng(vocab_size)
    lines = kind != "trigram"
    # One text: symbols are words. Lines: symbol 0 is the text's <unk>, and the last one ends a line.
    word_of = np.arange(vocab_size) + FIRST_WORD_ID
    if lines:
        word_of[-1] = EOS_ID
    words = word_of[np.minimum(rng.geometric(0.5, size=60) - 1, vocab_size - 1 - lines)]
    texts = np.split(words, [5, 12, 12, 30]) if lines else [words]
    counts = count_ngrams(mark_sentences(texts), FIRST_WORD_ID + vocab_size - lines, 3)
    if kind.startswith("epsilon"):
        made = epsilon(counts, [0.5, 2.0, 3.0], fallback="unigram")
    else:
        made = modified_kneser_ney(counts, discount_fallback=True)
    return put_tables(made.tables, word_of, has_unknown=lines)


@cache
def small(kind: str, vocab_size: int = 3) -> tuple[Model, Params]:
    """A small model with parameters far from where training starts: no bias is zero, no gate undecided."""
    key = jax.random.key(len(kind) + vocab_size)
    if kind == "chain":
        model: Model = MarkovChain(vocab_size)
        return model, model.init(key)
    if kind in SOURCES:
        rng = np.random.default_rng(vocab_size)
        if kind == "hidden Markov source":
            return put_source(sources.random_hidden_markov(rng, 2, vocab_size, 0.8, 0.5))
        return put_source(sources.random_chain(rng, vocab_size, 2))
    if kind in COUNTS:
        return counted(kind, vocab_size)
    if kind == "dynamic":
        inner, params = small("gru", vocab_size)
        return Dynamic(inner, 3), DynamicParams(params, jnp.array(0.3), jnp.array(0.1))
    if kind == "mixture":
        models, params = zip(small("trigram", vocab_size), small("gru", vocab_size), strict=True)
        return Mixture(models), MixtureParams(jnp.log(jnp.array([0.3, 0.7])), params)
    if kind == "following mixture":
        mixture, params = small("mixture", vocab_size)
        return Following(mixture), FollowingParams(params, jnp.array(0.2))
    if kind in MADE_OF_MODELS:
        inner = small("gru" if kind == "neural cache" else "trigram", vocab_size)
        model, params = with_cache(*inner, 4, vocab_size, neural=kind == "neural cache")
        return model, params._replace(weight=jnp.array(0.4))
    model = build_model(KINDS[kind], vocab_size)
    rng = np.random.default_rng(len(kind) + vocab_size)
    shapes = jax.eval_shape(model.init, key)

    def draw(leaf: jax.ShapeDtypeStruct) -> Array:
        # Layers with norms and products of products magnify rounding: their kernels keep the size of rows.
        spread = leaf.shape[0] ** -0.5 if is_stack(KINDS[kind], KINDS[kind].model) and leaf.ndim > 1 else 1.0
        return jnp.asarray(spread * rng.normal(size=leaf.shape), leaf.dtype)

    return model, jax.tree.map(draw, shapes)

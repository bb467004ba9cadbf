"""Known sources under the contract: the truth, scored, rolled out and sampled like any other model."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import Predictions, StepModel, batch_major, check_key, unroll_by_carries
from lmseq.data.sources import HiddenMarkov, MarkovChain, shorter_tables
from lmseq.types import Carry, LogProbs, Params, PRNGKey, TokenBatch, TokenLogProbs

Belief = Float[Array, "batch state"]


@dataclass(frozen=True)
class SourceModel(StepModel):
    """What the sources have in common: all steps of a sequence are read out at once."""

    vocab_size: int

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Predictions]:
        """The exact distribution after each of xs (B, T); a key does nothing."""
        check_key(training, key)
        return unroll_by_carries(self, params, carry, xs)


class ChainParams(NamedTuple):
    """A row for each context of 0 ... m tokens: ln P(x | context), and the row of the context after x.

    log_probs: float32 (C, V). later: int32 (C, V).
    """

    log_probs: Float[Array, "context vocab"]
    later: Int[Array, "context vocab"]


@dataclass(frozen=True)
class ChainModel(SourceModel):
    """A Markov chain of order m; the carry is the row of the context, int32 (B,)."""

    order: int

    def init(self, key: PRNGKey) -> ChainParams:
        """The chain that knows nothing."""
        later = _later_contexts(self.vocab_size, self.order)
        return ChainParams(jnp.full(later.shape, -jnp.log(self.vocab_size)), jnp.asarray(later))

    def init_carry(self, params: ChainParams, batch_size: int) -> Int[Array, "batch"]:
        """The empty context."""
        return jnp.zeros(batch_size, jnp.int32)

    def update(self, params: ChainParams, carry: Int[Array, "batch"], x: Int[Array, "batch"]) -> Carry:
        """The context with x behind it and, when full, without its first token."""
        return params.later[carry, x]

    def readout(self, params: ChainParams, carry: Int[Array, "batch"]) -> LogProbs:
        """The context's row."""
        return params.log_probs[carry]


class HiddenParams(NamedTuple):
    """`data.sources.HiddenMarkov` in float32."""

    initial: Float[Array, "state"]
    transition: Float[Array, "state state"]
    emission: Float[Array, "state vocab"]


@dataclass(frozen=True)
class HiddenMarkovModel(SourceModel):
    """A hidden Markov source; the carry is P(h_{t+1} | x_1 ... x_t), (B, S): the forward algorithm."""

    num_states: int

    def init(self, key: PRNGKey) -> HiddenParams:
        """The source that knows nothing."""
        size, vocab_size = self.num_states, self.vocab_size
        return HiddenParams(
            jnp.full(size, 1 / size),
            jnp.full((size, size), 1 / size),
            jnp.full((size, vocab_size), 1 / vocab_size),
        )

    def init_carry(self, params: HiddenParams, batch_size: int) -> Belief:
        """The law of h_1."""
        return jnp.tile(params.initial, (batch_size, 1))

    def update(self, params: HiddenParams, carry: Belief, x: Int[Array, "batch"]) -> Belief:
        """Condition on x, then move on; zeros after what is impossible, and from then on."""
        return self._condition(params, carry, params.emission.T[x])

    def _condition(self, params: HiddenParams, carry: Belief, likelihood: Belief) -> Belief:
        joint = carry * likelihood
        total = jnp.sum(joint, axis=-1, keepdims=True)
        given = joint / jnp.where(total > 0.0, total, 1.0)
        return given @ params.transition

    def readout(self, params: HiddenParams, carry: Belief) -> LogProbs:
        """ln sum_h P(h) P(x | h)."""
        return jnp.log(carry @ params.emission)

    def carries(
        self, params: HiddenParams, carry: Belief, xs: TokenBatch
    ) -> Float[Array, "batch time state"]:
        """The beliefs after each of xs (B, T), (B, T, S); emissions are looked up before the scan."""

        def step(carry: Belief, likelihood: Belief) -> tuple[Belief, Belief]:
            carry = self._condition(params, carry, likelihood)
            return carry, carry

        return batch_major(lax.scan(step, carry, params.emission.T[xs.T])[1])

    def token_log_probs(
        self,
        params: HiddenParams,
        carry: Belief,
        xs: TokenBatch,
        targets: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """As `unroll` and a gather, without the other symbols' probabilities."""
        check_key(training, key)
        carries = self.carries(params, carry, xs)
        return carries[:, -1], jnp.log(jnp.sum(carries * params.emission.T[targets], axis=-1))


def _later_contexts(vocab_size: int, order: int) -> Int[np.ndarray, "context vocab"]:
    """The row of each context after each symbol: rows are sorted by length, then as numbers of base V."""
    first = np.cumsum([0, *(vocab_size**length for length in range(order + 1))])
    later = []
    for length in range(order + 1):
        codes = np.arange(vocab_size**length)[:, None] * vocab_size + np.arange(vocab_size)
        to = min(length + 1, order)
        later.append(first[to] + codes % vocab_size**to)
    return np.concatenate(later).astype(np.int32)


def put_source(source: MarkovChain | HiddenMarkov) -> tuple[SourceModel, Params]:
    """A source as a model with its parameters: its predictions are the true conditional probabilities.

    The first tokens of a chain, which have less than m before them, come from its stationary law.
    """
    if isinstance(source, MarkovChain):
        rows = np.concatenate([t.reshape(-1, source.vocab_size) for t in shorter_tables(source)])
        with np.errstate(divide="ignore"):
            log_probs = jnp.asarray(np.log(rows), jnp.float32)
        later = jnp.asarray(_later_contexts(source.vocab_size, source.order))
        return ChainModel(source.vocab_size, source.order), ChainParams(log_probs, later)
    leaves = (jnp.asarray(leaf, jnp.float32) for leaf in source)
    return HiddenMarkovModel(source.vocab_size, len(source.initial)), HiddenParams(*leaves)

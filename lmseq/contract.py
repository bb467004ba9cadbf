"""The contract: a sequence model is a step function; everything else is a scan over it.

`update` is the article's h_t = f(x_t, h_{t-1}) and `readout` its prediction of x_{t+1} from h_t
alone. Counts, windows and hidden states differ only in what they carry. Scoring, k-step prediction
and sampling are written over this contract once and serve every model.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.types import Carry, LogProbs, Params, PRNGKey, TokenBatch, TokenLogProbs


@runtime_checkable
class Model(Protocol):
    """A model of token sequences. It is hashable, so that it can be a static argument of `jax.jit`."""

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, a plain pytree."""
        ...

    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """What is known before anything was seen; every leaf has `batch_size` rows."""
        ...

    def update(self, params: Params, carry: Carry, x: Int[Array, "batch"]) -> Carry:
        """h_t = f(x_t, h_{t-1}) for token ids x (B,)."""
        ...

    def readout(self, params: Params, carry: Carry) -> LogProbs:
        """Log-probabilities (B, V) of the next token; of `init_carry`, those of the first."""
        ...

    def unroll(
        self, params: Params, carry: Carry, xs: TokenBatch, key: PRNGKey | None = None
    ) -> tuple[Carry, Float[Array, "batch time vocab"]]:
        """Teacher-forced over xs (B, T): prediction t is `readout` after `update` with x_1 ... x_t.

        A key turns training noise (dropout) on; without one the result is deterministic.
        """
        ...

    def token_log_probs(
        self,
        params: Params,
        carry: Carry,
        xs: TokenBatch,
        targets: TokenBatch,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """As `unroll`, keeping only log P(targets[b, t] | xs[b, :t + 1]), (B, T) in nats."""
        ...


def scan_unroll(
    model: Model, params: Params, carry: Carry, xs: TokenBatch
) -> tuple[Carry, Float[Array, "batch time vocab"]]:
    """The definition of `unroll`: a scan of `update` then `readout` over xs (B, T).

    Models may compute it in any faster way that agrees; this is what they must agree with.
    """

    def step(carry: Carry, x: Int[Array, "batch"]) -> tuple[Carry, LogProbs]:
        carry = model.update(params, carry, x)
        return carry, model.readout(params, carry)

    carry, predictions = lax.scan(step, carry, xs.T)
    return carry, jnp.swapaxes(predictions, 0, 1)


def gather_log_probs(
    log_probs: Float[Array, "*dims vocab"], tokens: Int[Array, "*dims"]
) -> Float[Array, "*dims"]:
    """Pick from each distribution (..., V) the log-probability of its token (...)."""
    return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def repeat_carry(carry: Carry, times: int) -> Carry:
    """Each row of every leaf `times` times in a row: (B, ...) becomes (B * times, ...)."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), carry)

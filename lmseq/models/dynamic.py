"""Dynamic evaluation: a model that goes on learning from what it reads, under the contract.

The carry holds what has been added to the parameters. After every segment of N tokens a step of gradient
descent is taken on the segment's mean loss,

    theta <- theta - rate grad + decay (theta_0 - theta),

theta_0 the trained parameters (Mikolov et al. 2010; Krause et al. 2018, whose scaling by mean squares of
gradients is left out). What is predicted depends on tokens before alone, so a stream's score is a likelihood.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import Model, StepModel, check_key, log_prob, scan_unroll
from lmseq.scoring import score_stream
from lmseq.types import Carry, LogProbs, Params, PRNGKey, TokenBatch, TokenLogProbs

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of a step, which are tried


class DynamicParams(NamedTuple):
    """The trained parameters, the rate of a step, and the share by which it goes back to them."""

    model: Params
    rate: Float[Array, ""]
    decay: Float[Array, ""]


class DynamicCarry(NamedTuple):
    """What was added to the parameters, a copy a row; the model's carry before the present segment and now.

    tokens: of the segment, of which `number` have come.
    """

    added: Params
    start: Carry
    inner: Carry
    tokens: Int[Array, "batch segment"]
    number: Int[Array, "batch"]


@dataclass(frozen=True)
class Dynamic(StepModel):
    """A model of tokens that takes a gradient step after every `segment` of at least 2 of them.

    Each row of a batch has parameters of its own. With a rate of 0 it is the model.
    """

    model: Model
    segment: int

    adapts: ClassVar[bool] = True

    def init(self, key: PRNGKey) -> DynamicParams:
        """The model's, a rate of 0.1 and no decay."""
        return DynamicParams(self.model.init(key), jnp.array(0.1), jnp.array(0.0))

    def init_carry(self, params: DynamicParams, batch_size: int) -> DynamicCarry:
        """Nothing added, and the beginning of a segment."""
        added = jax.tree.map(lambda leaf: jnp.zeros((batch_size, *leaf.shape), leaf.dtype), params.model)
        start, inner = (self.model.init_carry(params.model, batch_size) for _ in range(2))
        tokens = jnp.zeros((batch_size, self.segment), jnp.int32)
        return DynamicCarry(added, start, inner, tokens, jnp.zeros(batch_size, jnp.int32))

    def update(self, params: DynamicParams, carry: DynamicCarry, x: Int[Array, "batch"]) -> DynamicCarry:
        """The token under the present parameters; a step at the end of a segment."""

        def read(added: Params, inner: Carry, token: Int[Array, ""]) -> Carry:
            return _row(self.model.update(_sum(params.model, added), _batch(inner), token[None]))

        inner = jax.vmap(read)(carry.added, carry.inner, x)
        rows = jnp.arange(x.shape[0])
        tokens = carry.tokens.at[rows, carry.number].set(x)
        carry = carry._replace(inner=inner, tokens=tokens, number=carry.number + 1)
        due = carry.number == self.segment
        return lax.cond(jnp.any(due), lambda: self._step(params, carry, due), lambda: carry)

    def _step(self, params: DynamicParams, carry: DynamicCarry, due: Array) -> DynamicCarry:
        """The carry after a gradient step of the rows whose segment is full."""

        def moved(added: Params, start: Carry, tokens: Int[Array, "segment"]) -> Params:
            return self._learn(params, added, start, tokens)[0]

        after = jax.vmap(moved)(carry.added, carry.start, carry.tokens)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(due.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return carry._replace(
            added=jax.tree.map(chosen, after, carry.added),
            start=jax.tree.map(chosen, carry.inner, carry.start),
            number=jnp.where(due, 0, carry.number),
        )

    def _learn(
        self, params: DynamicParams, added: Params, start: Carry, tokens: Int[Array, "segment"]
    ) -> tuple[Params, Carry, Float[Array, "_"]]:
        """Of one row: what is added after a step on a segment, its last carry, ln p of all but its first."""
        row = tokens[None]

        def loss(theta: Params) -> tuple[Float[Array, ""], tuple[Carry, Float[Array, "_"]]]:
            first = log_prob(self.model.readout(theta, _batch(start)), row[:, 0])
            inner, rest = self.model.token_log_probs(theta, _batch(start), row[:, :-1], row[:, 1:])
            last = self.model.update(theta, inner, row[:, -1])
            return -(first[0] + rest.sum()) / self.segment, (_row(last), rest[0])

        slope, (last, log_probs) = jax.grad(loss, has_aux=True)(_sum(params.model, added))
        after = jax.tree.map(lambda a, g: (1.0 - params.decay) * a - params.rate * g, added, slope)
        return after, last, log_probs

    def readout(self, params: DynamicParams, carry: DynamicCarry) -> LogProbs:
        """The model's prediction under each row's own parameters."""

        def of_row(added: Params, inner: Carry) -> Float[Array, "vocab"]:
            return self.model.readout(_sum(params.model, added), _batch(inner))[0]

        return jax.vmap(of_row)(carry.added, carry.inner)

    def token_log_probs(
        self,
        params: DynamicParams,
        carry: DynamicCarry,
        xs: TokenBatch,
        targets: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[DynamicCarry, TokenLogProbs]:
        """As the scan of steps; by whole segments where all rows begin one, and xs (B, T) is made of such."""
        check_key(training, key)

        def by_steps() -> tuple[DynamicCarry, TokenLogProbs]:
            last, predictions = scan_unroll(self, params, carry, xs)
            return last, log_prob(predictions, targets)

        if xs.shape[1] % self.segment:
            return by_steps()
        return lax.cond(
            jnp.all(carry.number == 0), lambda: self._by_segments(params, carry, xs, targets), by_steps
        )

    def _by_segments(
        self, params: DynamicParams, carry: DynamicCarry, xs: TokenBatch, targets: TokenBatch
    ) -> tuple[DynamicCarry, TokenLogProbs]:
        batch_size, length = xs.shape

        def of_row(added: Params, start: Carry, tokens: Array, target: Array):
            after, last, log_probs = self._learn(params, added, start, tokens)
            # The token behind a segment is predicted after the step.
            prediction = self.model.readout(_sum(params.model, after), _batch(last))
            return after, last, jnp.append(log_probs, log_prob(prediction, target[None])[0])

        def segment(state: tuple[Params, Carry], part: tuple[TokenBatch, Int[Array, "batch"]]):
            after, last, log_probs = jax.vmap(of_row)(*state, *part)
            return (after, last), log_probs

        shape = (batch_size, length // self.segment, self.segment)
        parts = jnp.swapaxes(xs.reshape(shape), 0, 1), targets.reshape(shape)[:, :, -1].T
        (added, last), log_probs = lax.scan(segment, (carry.added, carry.inner), parts)
        end = DynamicCarry(added, last, last, xs[:, -self.segment :], carry.number)
        return end, jnp.swapaxes(log_probs, 0, 1).reshape(batch_size, length)


def _sum(params: Params, added: Params) -> Params:
    return jax.tree.map(jnp.add, params, added)


def _batch(row: Any) -> Any:
    """One row as a batch."""
    return jax.tree.map(lambda leaf: leaf[None], row)


def _row(batch: Any) -> Any:
    """The only row of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], batch)


def is_dynamic(params: Params) -> bool:
    """Whether all parameters are floats, which gradients can move: counts are not."""
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))


def with_dynamic(
    model: Model, params: Params, segment: int, rate: float, decay: float = 0.0
) -> tuple[Dynamic, DynamicParams]:
    """The model and its parameters under dynamic evaluation.

    Raises ValueError for a model whose parameters are not all floats, as counts are not.
    """
    if not is_dynamic(params):
        raise ValueError("expected a model that is trained by gradients: counts have nothing to adapt")
    return Dynamic(model, segment), DynamicParams(params, jnp.float32(rate), jnp.float32(decay))


def fit_rate(
    model: Model, params: Params, ids: Int[np.ndarray, "time"], segment: int, decay: float = 0.0
) -> float:
    """The rate of RATES under which held-out ids (T,) are likeliest; 0 where none helps."""
    losses = {0.0: -score_stream(model, params, ids).mean(dtype=np.float64)}
    for rate in RATES:
        found = -score_stream(*with_dynamic(model, params, segment, rate, decay), ids).mean(dtype=np.float64)
        if not np.isfinite(found) or found > losses[0.0] + 1.0:
            break  # larger ones are worse
        losses[rate] = found
    return min(losses, key=losses.__getitem__)

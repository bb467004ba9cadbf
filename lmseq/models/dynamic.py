"""Dynamic evaluation: a model whose parameters follow the text that it reads (Krause et al. 2018).

It is one more model under the contract. What it has learned of a stream is a part of the carry, so that
scoring, prediction ahead, sampling and mixtures take it as they take any other.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import Model, StepModel, as_stream, check_key, gather_log_probs
from lmseq.types import Carry, LogProbs, Params, PRNGKey, TokenBatch, TokenLogProbs, Tokens


class DynamicParams(NamedTuple):
    """The trained parameters theta_0, the rate eta >= 0 and the decay lambda in [0, 1).

    scale: what each entry of a gradient is divided by, a tree like theta_0; None for a division by 1.
    """

    model: Params
    rate: Float[Array, ""]
    decay: Float[Array, ""]
    scale: Params | None = None


class DynamicCarry(NamedTuple):
    """What each row has learned, and its present segment.

    change: theta - theta_0. start, now: the model's carry where the segment begins, and after the first
    `count` < N tokens of it, which are the first of `tokens`; zeros follow them.
    """

    change: Params
    start: Carry
    now: Carry
    tokens: Int[Array, "*batch segment"]
    count: Int[Array, "*batch"]


@dataclass(frozen=True)
class Dynamic(StepModel):
    """A model of tokens that takes one step of gradient descent after every N = `segment` >= 1 of them:

        theta <- theta - eta g / scale + lambda (theta_0 - theta)
        g = gradient in theta of -1/N sum_i log p_theta(x_i | x_1 ... x_(i-1)), over the segment's N tokens

    Krause, Kahembwe, Murray and Renals (2018). The segment's first carry is a constant of the gradient, as in
    truncated backpropagation through time. Carries are not computed again after a step. A token is
    predicted by parameters that have not seen it. Each row of a batch has parameters of its own. Drawn
    tokens are learned from as given ones are. The model reads as in evaluation, without dropout.
    """

    model: Model
    segment: int
    in_order: ClassVar[bool] = True

    def init(self, key: PRNGKey) -> DynamicParams:
        """The model's own, at a rate of 0: nothing is learned until a rate is given."""
        return DynamicParams(self.model.init(key), jnp.array(0.0), jnp.array(0.0))

    def init_carry(self, params: DynamicParams, batch_size: int) -> DynamicCarry:
        """The trained parameters, and an empty segment."""
        change = jax.tree.map(lambda leaf: jnp.zeros((batch_size, *leaf.shape), leaf.dtype), params.model)
        first = self.model.init_carry(params.model, batch_size)
        tokens = jnp.zeros((batch_size, self.segment), jnp.int32)
        return DynamicCarry(change, first, first, tokens, jnp.zeros(batch_size, jnp.int32))

    def update(self, params: DynamicParams, carry: DynamicCarry, x: Int[Array, "batch"]) -> DynamicCarry:
        """The model sees x; where x fills a segment, a step is taken."""
        carry = _by_row(partial(self._see, params), carry, x)
        full = carry.count == self.segment

        def learn(carry: DynamicCarry) -> DynamicCarry:
            stepped = _by_row(partial(self._learn, params), carry)
            return jax.vmap(_choose)(full, stepped, carry)

        return lax.cond(jnp.any(full), learn, lambda carry: carry, carry)

    def readout(self, params: DynamicParams, carry: DynamicCarry) -> LogProbs:
        """The model's prediction by each row's parameters."""

        def row(change: Params, now: Carry) -> Float[Array, "vocab"]:
            return self.model.readout(_weights(params, change), _one_row(now))[0]

        return _by_row(row, carry.change, carry.now)

    def unroll(
        self,
        params: DynamicParams,
        carry: DynamicCarry,
        xs: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[DynamicCarry, Float[Array, "batch time vocab"]]:
        """A scan over segments, each unrolled at once; there is no noise."""
        check_key(training, key)
        return _by_row(partial(self._read, params), carry, xs)

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
        """As `unroll`; no more than one segment's predictions are held at once."""
        check_key(training, key)
        return _by_row(partial(self._read, params), carry, xs, targets)

    def _see(self, params: DynamicParams, carry: DynamicCarry, x: Int[Array, ""]) -> DynamicCarry:
        """One row after a token, before any step."""
        now = self.model.update(_weights(params, carry.change), _one_row(carry.now), x[None])
        tokens = carry.tokens.at[carry.count].set(x)
        return carry._replace(now=_row_of(now), tokens=tokens, count=carry.count + 1)

    def _learn(self, params: DynamicParams, carry: DynamicCarry) -> DynamicCarry:
        """One row with a full segment, after the step."""
        change = self._step(params, carry.change, carry.start, carry.tokens)[0]
        nothing = jax.tree.map(jnp.zeros_like, (carry.tokens, carry.count))
        return DynamicCarry(change, carry.now, carry.now, *nothing)

    def _step(
        self, params: DynamicParams, change: Params, start: Carry, tokens: Int[Array, "segment"]
    ) -> tuple[Params, Float[Array, "segment vocab"], Carry]:
        """One row's change after a step on a segment; what the tokens were predicted by; the last carry."""
        loss = partial(_segment_loss, self.model)
        gradient, (log_probs, last) = jax.grad(loss, has_aux=True)(_weights(params, change), start, tokens)
        if params.scale is not None:
            gradient = jax.tree.map(jnp.divide, gradient, params.scale)
        kept = 1.0 - params.decay
        change = jax.tree.map(lambda old, g: kept * old - params.rate * g, change, gradient)
        return change, log_probs, last

    def _read(
        self,
        params: DynamicParams,
        carry: DynamicCarry,
        xs: Int[Array, "time"],
        targets: Int[Array, "time"] | None = None,
    ) -> tuple[DynamicCarry, Float[Array, "time *vocab"]]:
        """One row over xs: the last carry, and the prediction after each, or what it says of the target.

        The tokens that the carry holds and xs are cut into segments side by side:

            place     0 ... count - 1 | count ... count + T - 1
            token     carry.tokens    | xs[0] ... xs[T - 1]
            target                        targets[0] ... targets[T - 1]  at places count + 1 ... count + T
        """
        time, stop = len(xs), carry.count + len(xs)
        number = -(-(self.segment + time) // self.segment)
        held = jnp.zeros(number * self.segment, jnp.int32).at[: self.segment].set(carry.tokens)

        def in_segments(values: Int[Array, "time"], place: Int[Array, ""]) -> Int[Array, "number segment"]:
            return lax.dynamic_update_slice(held, values, (place,)).reshape(number, self.segment)

        tokens = in_segments(xs, carry.count)
        aims = None if targets is None else in_segments(targets, carry.count + 1)
        is_whole = self.segment * (1 + jnp.arange(number)) <= stop

        def read(state: tuple[Params, Carry], row: Any) -> tuple[tuple[Params, Carry], Array]:
            tokens, aims, is_whole = row
            change, log_probs, last = self._step(params, *state, tokens)
            found = log_probs if aims is None else gather_log_probs(log_probs, aims)
            return _choose(is_whole, (change, last), state), found

        (change, start), found = lax.scan(read, (carry.change, carry.start), (tokens, aims, is_whole))
        found = found.reshape(-1, *found.shape[2:])
        tokens, count = tokens[stop // self.segment], stop % self.segment
        # The tokens of a segment that is not full were read with those that fill it up: they are read again.
        after = self.model.carries(_weights(params, change), _one_row(start), tokens[None])
        now = _choose(count == 0, start, jax.tree.map(lambda leaf: leaf[0, count - 1], after))
        last = DynamicCarry(change, start, now, tokens, count)
        return last, lax.dynamic_slice_in_dim(found, carry.count + 1, time)


def with_rates(
    model: Model, params: Params, segment: int, rate: float, decay: float, scale: Params | None = None
) -> tuple[Dynamic, DynamicParams]:
    """The model and its trained parameters, to follow the text at these rates; scale: of `DynamicParams`."""
    return Dynamic(model, segment), DynamicParams(params, jnp.array(rate), jnp.array(decay), scale)


def _segment_loss(
    model: Model, weights: Params, start: Carry, tokens: Int[Array, "segment"]
) -> tuple[Float[Array, ""], tuple[Float[Array, "segment vocab"], Carry]]:
    """Mean loss of the tokens of one row; what they were predicted by, and the carry after them."""
    first = model.readout(weights, _one_row(start))
    last, after = model.unroll(weights, _one_row(start), tokens[None])
    log_probs = jnp.concatenate([first, after[0, :-1]])
    return -gather_log_probs(log_probs, tokens).mean(), (log_probs, _row_of(last))


def _weights(params: DynamicParams, change: Params) -> Params:
    """theta of one row."""
    return jax.tree.map(jnp.add, params.model, change)


def _by_row(work: Any, *rows: Any) -> Any:
    """`work` of each row by itself, which takes and gives trees without the batch axis."""
    if jax.tree.leaves(rows)[-1].shape[0] != 1:  # or any number, in a program that is exported
        return jax.vmap(work)(*rows)
    return _one_row(work(*_row_of(rows)))  # products of one row are no batch of products


def _one_row(tree: Carry) -> Carry:
    """A tree without the batch axis as a batch of one row."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _row_of(tree: Carry) -> Carry:
    """The row of a batch of one."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _choose(condition: Array, this: Any, other: Any) -> Any:
    """One of two trees."""
    return jax.tree.map(partial(jnp.where, condition), this, other)


@partial(jax.jit, static_argnums=(0, 3))
def _mean_squares(model, params, tokens, segment):
    """The mean over whole segments of the squares of their gradients."""

    def step(state, tokens):
        carry, total = state
        gradient, (_, carry) = jax.grad(partial(_segment_loss, model), has_aux=True)(params, carry, tokens)
        return (carry, jax.tree.map(lambda sum, g: sum + g**2, total, gradient)), None

    segments = tokens[: len(tokens) // segment * segment].reshape(-1, segment)
    start = _row_of(model.init_carry(params, 1)), jax.tree.map(jnp.zeros_like, params)
    (_, total), _ = lax.scan(step, start, segments)
    return jax.tree.map(lambda sum: sum / len(segments), total)


def gradient_scale(
    model: Model, params: Params, tokens: Tokens, segment: int, epsilon: float = 1e-3
) -> Params:
    """sqrt(mean of g^2) + epsilon of each parameter, over the whole segments of training text (T,).

    A rate then says by how much a parameter moves whose gradient is as large as it was in training: the
    scale of `DynamicParams` by which large and small gradients count alike (Krause et al. 2018, RMS).
    g is the gradient of a segment's mean loss, as in `Dynamic`, by parameters that stay. Raises ValueError
    for less text than a segment.
    """
    if len(tokens) < segment:
        raise ValueError(f"expected training text of at least one segment of {segment}, got {len(tokens)}")
    squares = _mean_squares(model, params, as_stream(np.asarray(tokens)), segment)
    return jax.tree.map(lambda mean: jnp.sqrt(mean) + epsilon, squares)

"""Score a stream exactly, whatever the cut.

A stream is scored by B strips in parallel. Strip r should begin with the carry that strip r - 1 ends
with, which is not known yet: so all strips are run from a guess, each is handed its neighbour's last
carry, and this is repeated until nothing changes. At that fixed point the strips chain into exactly
the sequential pass; it is reached after at most B passes (after pass k the first k strips are exact)
and, for a model that forgets, after two or three.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lmseq.contract import Model, gather_log_probs
from lmseq.data.partition import scoring, take_batch
from lmseq.types import Carry, Params, Tokens

# Carries closer than this are one: what a difference of 1e-6 in a state does to a later
# log-probability is below float32's own rounding of it.
CARRY_TOLERANCE = 1e-6


def _same(left: Carry, right: Carry) -> Bool[Array, ""]:
    """Whether two carries agree: integers exactly, reals to CARRY_TOLERANCE (NaN equals NaN)."""

    def same(a: Array, b: Array) -> Bool[Array, ""]:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return jnp.array_equal(a, b)
        return jnp.allclose(a, b, rtol=CARRY_TOLERANCE, atol=CARRY_TOLERANCE, equal_nan=True)

    return jnp.all(jnp.stack([jnp.array(True), *jax.tree.leaves(jax.tree.map(same, left, right))]))


def strip_carries(
    model: Model, params: Params, tokens: Tokens, starts: Int[Array, "steps batch"], num_steps: int
) -> Carry:
    """The carry with which each of B chained strips begins, exact whatever their number.

    Strip b is the windows of `num_steps` inputs at starts[0, b], starts[1, b] ...; strip b + 1
    continues strip b and strip 0 begins with nothing seen. Jittable; at most B passes.
    """
    batch_size = starts.shape[1]
    lengths = jnp.full((batch_size,), num_steps)
    blank = model.init_carry(params, batch_size)

    def read(carry: Carry, starts: Int[Array, "batch"]) -> tuple[Carry, None]:
        inputs = take_batch(tokens, starts, lengths, num_steps).inputs
        return model.unroll(params, carry, inputs)[0], None

    def improve(state: tuple[Carry, Bool[Array, ""], Int[Array, ""]]):
        guess, _, passes = state
        last, _ = lax.scan(read, guess, starts)
        handed_on = jax.tree.map(lambda first, rest: jnp.concatenate([first[:1], rest[:-1]]), blank, last)
        return handed_on, _same(guess, handed_on), passes + 1

    def unsettled(state: tuple[Carry, Bool[Array, ""], Int[Array, ""]]) -> Bool[Array, ""]:
        return ~state[1] & (state[2] < batch_size)

    # One strip needs no pass at all; B strips are exact after B - 1 hand-overs.
    settled = (blank, jnp.array(batch_size == 1), jnp.array(1))
    return lax.while_loop(unsettled, improve, settled)[0]


@partial(jax.jit, static_argnums=(0, 5))
def _score_strips(model, params, tokens, starts, lengths, num_steps):
    """Log-probability of the first token, and of every target of the plan, (steps, batch, time)."""
    blank = model.init_carry(params, 1)
    first = gather_log_probs(model.readout(params, blank), tokens[:1])[0]

    def window(carry, row):
        batch = take_batch(tokens, *row, num_steps)
        return model.token_log_probs(params, carry, batch.inputs, batch.targets)

    carry = strip_carries(model, params, tokens, starts, num_steps)
    return first, lax.scan(window, carry, (starts, lengths))[1]


def score_stream(
    model: Model, params: Params, tokens: Tokens, *, num_steps: int = 256, batch_size: int = 32
) -> Float[np.ndarray, "time"]:
    """Log-probability in nats of each token of one stream (T,), the first included, float32 (T,).

    The state is carried from end to end; num_steps (inputs a window) and batch_size (strips in
    parallel) set the speed and the memory, never the figure. Sum it in float64, as NumPy arrays allow:
    `score_stream(...).sum(dtype=np.float64)`. Raises ValueError for an empty stream.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    if not tokens.size:
        raise ValueError("expected at least one token to score, got an empty stream")
    if tokens.size == 1:
        carry = model.init_carry(params, 1)
        return np.asarray(gather_log_probs(model.readout(params, carry), tokens))
    num_steps = min(num_steps, tokens.size - 1)
    plan = scoring(tokens.size, num_steps, batch_size)
    first, log_probs = _score_strips(
        model, params, tokens, jnp.asarray(plan.starts), jnp.asarray(plan.lengths), num_steps
    )
    # (steps, batch, time) -> (batch, steps, time): stream order, whose tail is past the end.
    in_order = np.asarray(log_probs).swapaxes(0, 1).reshape(-1)[: tokens.size - 1]
    return np.concatenate([np.asarray(first)[None], in_order])


def unigram_log_probs(tokens: Int[np.ndarray, "time"], vocab_size: int) -> Float[np.ndarray, "vocab"]:
    """log P(x) = log((n(x) + 1) / (N + V)), add-one so that no symbol is impossible, float64 (V,)."""
    counts = np.bincount(tokens, minlength=vocab_size) + 1.0
    return np.log(counts / counts.sum())

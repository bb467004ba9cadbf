"""Score a stream exactly, whatever the cut.

A stream is scored by B strips in parallel. Strip r should begin with the carry that strip r - 1 ends
with, which is not known yet: so all strips are run from a guess, each is handed its neighbour's last
carry, and this is repeated until nothing changes. At that fixed point the strips chain into exactly
the sequential pass; it is reached after at most B passes (after pass k the first k strips are exact).
The first guess is what the end of the strip before leaves in a blank carry, so a model that forgets
needs one pass or two.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lmseq.contract import Model, as_stream, log_prob
from lmseq.data.partition import scoring, take_batch
from lmseq.types import Carry, Params, Stream

STRIP_WINDOW = 128  # tokens of a strip whose predictions are held at once
WARM_UP_TOKENS = 256  # at the end of a strip, read for the first guess
# Strips are chained when each begins with what its neighbour ends with, to CARRY_TOLERANCE. Models that
# amplify rounding never get there to the last digits, and no figure depends on those: reals nearer than
# ROUNDING_TOLERANCE are enough where another pass moves the total by less than LOSS_TOLERANCE of it.
# Integers must be equal.
CARRY_TOLERANCE = 1e-5
ROUNDING_TOLERANCE = 0.05
LOSS_TOLERANCE = 1e-7

# last carries and log-probabilities (..., batch, time) of all strips, from their first carries
StripPass = Callable[[Carry], tuple[Carry, Float[Array, "*dims"]]]


def _same_carry(left: Carry, right: Carry, tolerance: float) -> Bool[Array, ""]:
    """Whether two carries agree: integers exactly, reals to the tolerance (NaN equals NaN)."""

    def same(a: Array, b: Array) -> Bool[Array, ""]:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return jnp.array_equal(a, b)
        return jnp.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)

    return jnp.all(jnp.stack([jnp.array(True), *jax.tree.leaves(jax.tree.map(same, left, right))]))


def _same_loss(old: Float[Array, "*dims"], new: Float[Array, "*dims"]) -> Bool[Array, ""]:
    """Whether no strip's sum of log-probabilities (..., batch, time) moved by more than the tolerance."""
    equal = (old == new) | (jnp.isnan(old) & jnp.isnan(new))  # -inf stays -inf: no change
    moved = jnp.where(equal, 0.0, new - old).sum(axis=-1)
    by_strip = moved.sum(axis=tuple(range(moved.ndim - 1)))
    total = jnp.where(jnp.isfinite(new), new, 0.0).sum()
    return jnp.abs(by_strip).sum() <= LOSS_TOLERANCE * jnp.abs(total)


def chain_strips(
    run: StripPass, blank: Carry, last_guess: Carry, num_strips: int
) -> tuple[Carry, Float[Array, "*dims"]]:
    """First carries of B chained strips, and the log-probabilities that `run` gives from them; jittable.

    `run` reads every strip from a carry a row; strip 0 begins with the first row of `blank`, strip r
    with the last carry of strip r - 1, for which `last_guess` is the first guess. At most B passes.
    """

    def hand_on(last: Carry) -> Carry:
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[:1], rest[:-1]]), blank, last)

    def improve(state):
        guess, old, _, passes = state
        last, log_probs = run(guess)
        handed_on = hand_on(last)
        near = _same_carry(guess, handed_on, ROUNDING_TOLERANCE) & _same_loss(old, log_probs)
        done = near | _same_carry(guess, handed_on, CARRY_TOLERANCE)
        # The last possible pass ran from carries that are exact already, rounding or not.
        return handed_on, log_probs, done | (passes + 1 >= num_strips), passes + 1

    shape = jax.eval_shape(run, blank)[1]
    nothing = jnp.full(shape.shape, jnp.inf, shape.dtype)  # differs from any log-probability
    state = (hand_on(last_guess), nothing, jnp.array(False), jnp.array(0))
    carries, log_probs, _, _ = lax.while_loop(lambda state: ~state[2], improve, state)
    return carries, log_probs


def _guess_last(
    model: Model, params: Params, tokens: Stream, starts: Int[Array, "batch"], strip_length: int
) -> Carry:
    """What the last tokens of each strip leave in a blank carry."""
    num_steps = min(WARM_UP_TOKENS, strip_length)
    full = jnp.full(starts.shape, num_steps)
    inputs = take_batch(tokens, starts + strip_length - num_steps, full, num_steps).inputs
    return model.unroll(params, model.init_carry(params, starts.shape[0]), inputs)[0]


def strip_carries(
    model: Model, params: Params, tokens: Stream, starts: Int[Array, "batch"], strip_length: int
) -> Carry:
    """The carry with which each of B chained strips of `strip_length` inputs begins.

    Strip b + 1 must start where strip b ends, and strip 0 begins with nothing seen.
    """
    num_strips = starts.shape[0]
    # In windows, so that no array holds a distribution for every token: first what is over, then whole ones.
    rest = strip_length % STRIP_WINDOW or min(STRIP_WINDOW, strip_length)
    later = rest + STRIP_WINDOW * jnp.arange((strip_length - rest) // STRIP_WINDOW)
    window_starts = starts[None] + later[:, None]

    def window(carry: Carry, starts: Int[Array, "batch"], num_steps: int):
        batch = take_batch(tokens, starts, jnp.full(starts.shape, num_steps), num_steps)
        return model.token_log_probs(params, carry, batch.inputs, batch.targets)

    def run(carry: Carry) -> tuple[Carry, Float[Array, "batch time"]]:
        carry, first = window(carry, starts, rest)
        carry, others = lax.scan(lambda carry, row: window(carry, row, STRIP_WINDOW), carry, window_starts)
        others = jnp.swapaxes(others, 0, 1).reshape(num_strips, -1)
        return carry, jnp.concatenate([first, others], axis=1)

    last_guess = _guess_last(model, params, tokens, starts, strip_length)
    return chain_strips(run, model.init_carry(params, num_strips), last_guess, num_strips)[0]


@partial(jax.jit, static_argnums=(0, 5))
def _score_strips(model, params, tokens, starts, lengths, num_steps):
    """Log-probability of the first token, and of every target of the plan, (steps, batch, time)."""
    num_windows, num_strips = starts.shape
    blank = model.init_carry(params, num_strips)
    first = log_prob(model.readout(params, model.init_carry(params, 1)), tokens[:1])

    def window(carry, row):
        batch = take_batch(tokens, *row, num_steps)
        carry, log_probs = model.token_log_probs(params, carry, batch.inputs, batch.targets)
        return carry, jnp.where(batch.mask, log_probs, 0.0)

    def run(carry):
        return lax.scan(window, carry, (starts, lengths))

    last_guess = _guess_last(model, params, tokens, starts[0], num_steps * num_windows)
    return first, chain_strips(run, blank, last_guess, num_strips)[1]


def score_stream(
    model: Model, params: Params, tokens: Stream, *, num_steps: int = 256, batch_size: int = 32
) -> Float[np.ndarray, "time"]:
    """Log-probability in nats of each token of one stream (T,), the first included, float32 (T,).

    Of a stream of values (T, D) it is the log-density of each row of D.

    The state is carried from end to end; num_steps (inputs a window) and batch_size (strips in
    parallel) set the speed and the memory, never the figure. Sum it in float64, as NumPy arrays allow:
    `score_stream(...).sum(dtype=np.float64)`. Raises ValueError for an empty stream.
    """
    tokens = as_stream(tokens)
    length = tokens.shape[0]
    if not length:
        raise ValueError("expected at least one token to score, got an empty stream")
    if length == 1:
        carry = model.init_carry(params, 1)
        return np.asarray(log_prob(model.readout(params, carry), tokens))
    num_steps = min(num_steps, length - 1)
    plan = scoring(length, num_steps, batch_size)
    first, log_probs = _score_strips(
        model, params, tokens, jnp.asarray(plan.starts), jnp.asarray(plan.lengths), num_steps
    )
    # (steps, batch, time) -> (batch, steps, time): stream order, whose tail is past the end.
    in_order = np.asarray(log_probs).swapaxes(0, 1).reshape(-1)[: length - 1]
    return np.concatenate([np.asarray(first), in_order])


def unigram_log_probs(tokens: Int[np.ndarray, "time"], vocab_size: int) -> Float[np.ndarray, "vocab"]:
    """log P(x) = log((n(x) + 1) / (N + V)), add-one so that no symbol is impossible, float64 (V,)."""
    counts = np.bincount(tokens, minlength=vocab_size) + 1.0
    return np.log(counts / counts.sum())

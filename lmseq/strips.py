"""A stream read by strips in parallel, chained so that they equal the sequential pass.

A stream is read by B strips in parallel. Strip r should begin with the carry that strip r - 1 ends
with, which is not known yet: so all strips are run from a guess, each is handed its neighbour's last
carry, and this is repeated until nothing changes. At that fixed point the strips chain into exactly
the sequential pass. The first guess is what the end of the strip before leaves in a blank carry, so a
model that forgets needs one pass or two. One that does not, as a net that has hardly been trained, may
need B of them (after pass k the first k strips are exact): where MOST_PASSES do not suffice, or will not
as far as the first ones tell, the strips are read one after the other.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lmseq.contract import Model, is_in_order
from lmseq.data.partition import take_batch
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

MOST_PASSES = 8  # to read the strips of a small net one by one takes as long as about five, on a CPU
HOPELESS = 1e-2  # how far from their neighbours' ends strips would begin in the last of these passes


def _distance(left: Carry, right: Carry) -> Float[Array, ""]:
    """How far two carries are apart, the largest |a - b| / (1 + |b|): infinitely where integers differ."""

    def apart(a: Array, b: Array) -> Float[Array, ""]:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return jnp.where(jnp.array_equal(a, b), 0.0, jnp.inf)
        equal = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
        return jnp.max(jnp.where(equal, 0.0, jnp.abs(a - b) / (1.0 + jnp.abs(b))), initial=0.0)

    leaves = jax.tree.leaves(jax.tree.map(apart, left, right))
    return jnp.max(jnp.stack([jnp.float32(0.0), *(leaf.astype(jnp.float32) for leaf in leaves)]))


def _same_loss(old: Float[Array, "*dims"], new: Float[Array, "*dims"]) -> Bool[Array, ""]:
    """Whether no strip's sum of log-probabilities (..., batch, time) moved by more than the tolerance."""
    equal = (old == new) | (jnp.isnan(old) & jnp.isnan(new))  # -inf stays -inf: no change
    moved = jnp.where(equal, 0.0, new - old).sum(axis=-1)
    by_strip = moved.sum(axis=tuple(range(moved.ndim - 1)))
    total = jnp.where(jnp.isfinite(new), new, 0.0).sum()
    return jnp.abs(by_strip).sum() <= LOSS_TOLERANCE * jnp.abs(total)


def chain_strips(
    run: StripPass, in_order: Callable[[], Carry], blank: Carry, last_guess: Carry, num_strips: int
) -> tuple[Carry, Float[Array, "*dims"]]:
    """First carries of B chained strips, and the log-probabilities that `run` gives from them; jittable.

    `run` reads every strip from a carry a row; strip 0 begins with the first row of `blank`, strip r
    with the last carry of strip r - 1, for which `last_guess` is the first guess. `in_order` gives the
    first carries by reading the strips one after the other, where MOST_PASSES do not suffice.
    """

    def hand_on(last: Carry) -> Carry:
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[:1], rest[:-1]]), blank, last)

    def improve(state):
        guess, old, (_, before), _, passes = state
        last, log_probs = run(guess)
        handed_on, passes = hand_on(last), passes + 1
        distance = _distance(guess, handed_on)
        near = (distance <= ROUNDING_TOLERANCE) & _same_loss(old, log_probs)
        # The last possible pass ran from carries that are exact already, rounding or not.
        done = near | (distance <= CARRY_TOLERANCE) | (passes >= num_strips)
        return handed_on, log_probs, (before, distance), done, passes

    def goes_on(state):
        _, _, (before, distance), done, passes = state
        if num_strips <= MOST_PASSES:
            return ~done
        # As far as the way from the pass before to this one tells where the last one would come to.
        left = MOST_PASSES - passes
        is_hopeless = distance * (distance / before) ** left > HOPELESS
        return ~done & (left > 0) & ~is_hopeless

    def one_by_one():
        carries = in_order()
        return carries, run(carries)[1]

    shape = jax.eval_shape(run, blank)[1]
    nothing = jnp.full(shape.shape, jnp.inf, shape.dtype)  # differs from any log-probability
    unknown = jnp.float32(jnp.inf), jnp.float32(jnp.inf)
    state = (hand_on(last_guess), nothing, unknown, jnp.array(False), jnp.array(0))
    carries, log_probs, _, done, _ = lax.while_loop(goes_on, improve, state)
    if num_strips <= MOST_PASSES:
        return carries, log_probs
    return lax.cond(done, lambda: (carries, log_probs), one_by_one)


def guess_last(
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

    Strip b + 1 must start where strip b ends, and strip 0 begins with nothing seen. Of a model that is
    `in_order` they are read one after the other.
    """
    in_order = partial(carries_in_order, model, params, tokens, starts, strip_length)
    if is_in_order(model):
        return in_order()
    num_strips = starts.shape[0]
    rest, later = _windows(strip_length)
    window_starts = starts[None] + later[:, None]

    def window(carry: Carry, starts: Int[Array, "batch"], num_steps: int):
        batch = take_batch(tokens, starts, jnp.full(starts.shape, num_steps), num_steps)
        return model.token_log_probs(params, carry, batch.inputs, batch.targets)

    def run(carry: Carry) -> tuple[Carry, Float[Array, "batch time"]]:
        carry, first = window(carry, starts, rest)
        carry, others = lax.scan(lambda carry, row: window(carry, row, STRIP_WINDOW), carry, window_starts)
        others = jnp.swapaxes(others, 0, 1).reshape(num_strips, -1)
        return carry, jnp.concatenate([first, others], axis=1)

    last_guess = guess_last(model, params, tokens, starts, strip_length)
    return chain_strips(run, in_order, model.init_carry(params, num_strips), last_guess, num_strips)[0]


def carries_in_order(
    model: Model, params: Params, tokens: Stream, starts: Int[Array, "batch"], strip_length: int
) -> Carry:
    """`strip_carries` by one pass over the stream."""
    rest, later = _windows(strip_length)

    def window(carry: Carry, start: Int[Array, ""], num_steps: int) -> Carry:
        batch = take_batch(tokens, start[None], jnp.full(1, num_steps), num_steps)
        return model.token_log_probs(params, carry, batch.inputs, batch.targets)[0]

    def whole_window(carry: Carry, start: Int[Array, ""]) -> tuple[Carry, None]:
        return window(carry, start, STRIP_WINDOW), None

    def strip(carry: Carry, start: Int[Array, ""]) -> tuple[Carry, Carry]:
        return lax.scan(whole_window, window(carry, start, rest), start + later)[0], carry

    before = lax.scan(strip, model.init_carry(params, 1), starts)[1]
    return jax.tree.map(lambda leaf: leaf[:, 0], before)


def _windows(strip_length: int) -> tuple[int, Int[Array, "window"]]:
    """Tokens of the first window of a strip, and where the others begin, of STRIP_WINDOW tokens each.

    In windows, so that no array holds a distribution for every token: first what is over, then whole ones.
    """
    rest = strip_length % STRIP_WINDOW or min(STRIP_WINDOW, strip_length)
    return rest, rest + STRIP_WINDOW * jnp.arange((strip_length - rest) // STRIP_WINDOW)

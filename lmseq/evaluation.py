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

from lmseq.contract import Model, gather_log_probs
from lmseq.data.partition import scoring, take_batch
from lmseq.types import Carry, Params, Tokens

WARM_UP_TOKENS = 256  # at the end of a strip, read for the first guess
# Strips are chained when each begins with what its neighbour ends with. Models that amplify rounding never
# get there to the last digits, and no figure depends on those: real carries need only be such that another
# pass moves the total by less than LOSS_TOLERANCE of it. Integer carries must be equal.
CARRY_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-7

# last carries and log-probabilities (..., batch, time) of all strips, from their first carries
StripPass = Callable[[Carry], tuple[Carry, Float[Array, "*dims"]]]


def _same_carry(left: Carry, right: Carry) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether two carries agree in their integers, exactly, and in their reals, to CARRY_TOLERANCE."""
    integers, reals = [jnp.array(True)], [jnp.array(True)]
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            reals.append(jnp.allclose(a, b, rtol=CARRY_TOLERANCE, atol=CARRY_TOLERANCE, equal_nan=True))
        else:
            integers.append(jnp.array_equal(a, b))
    return jnp.all(jnp.stack(integers)), jnp.all(jnp.stack(reals))


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
        same_integers, same_reals = _same_carry(guess, handed_on)
        done = same_integers & (same_reals | _same_loss(old, log_probs))
        # The last possible pass ran from carries that are exact already, rounding or not.
        return handed_on, log_probs, done | (passes + 1 >= num_strips), passes + 1

    shape = jax.eval_shape(run, blank)[1]
    nothing = jnp.full(shape.shape, jnp.inf, shape.dtype)  # differs from any log-probability
    state = (hand_on(last_guess), nothing, jnp.array(False), jnp.array(0))
    carries, log_probs, _, _ = lax.while_loop(lambda state: ~state[2], improve, state)
    return carries, log_probs


def _guess_last(
    model: Model, params: Params, tokens: Tokens, starts: Int[Array, "batch"], strip_length: int
) -> Carry:
    """What the last tokens of each strip leave in a blank carry."""
    num_steps = min(WARM_UP_TOKENS, strip_length)
    full = jnp.full(starts.shape, num_steps)
    inputs = take_batch(tokens, starts + strip_length - num_steps, full, num_steps).inputs
    return model.unroll(params, model.init_carry(params, starts.shape[0]), inputs)[0]


def strip_carries(
    model: Model, params: Params, tokens: Tokens, starts: Int[Array, "batch"], strip_length: int
) -> Carry:
    """The carry with which each of B chained strips of `strip_length` inputs begins.

    Strip b + 1 must start where strip b ends, and strip 0 begins with nothing seen.
    """
    num_strips = starts.shape[0]
    batch = take_batch(tokens, starts, jnp.full(starts.shape, strip_length), strip_length)

    def run(carry: Carry) -> tuple[Carry, Float[Array, "batch time"]]:
        return model.token_log_probs(params, carry, batch.inputs, batch.targets)

    last_guess = _guess_last(model, params, tokens, starts, strip_length)
    return chain_strips(run, model.init_carry(params, num_strips), last_guess, num_strips)[0]


@partial(jax.jit, static_argnums=(0, 5))
def _score_strips(model, params, tokens, starts, lengths, num_steps):
    """Log-probability of the first token, and of every target of the plan, (steps, batch, time)."""
    num_windows, num_strips = starts.shape
    blank = model.init_carry(params, num_strips)
    first = gather_log_probs(model.readout(params, blank)[:1], tokens[:1])

    def window(carry, row):
        batch = take_batch(tokens, *row, num_steps)
        carry, log_probs = model.token_log_probs(params, carry, batch.inputs, batch.targets)
        return carry, jnp.where(batch.mask, log_probs, 0.0)

    def run(carry):
        return lax.scan(window, carry, (starts, lengths))

    last_guess = _guess_last(model, params, tokens, starts[0], num_steps * num_windows)
    return first, chain_strips(run, blank, last_guess, num_strips)[1]


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
    return np.concatenate([np.asarray(first), in_order])


def unigram_log_probs(tokens: Int[np.ndarray, "time"], vocab_size: int) -> Float[np.ndarray, "vocab"]:
    """log P(x) = log((n(x) + 1) / (N + V)), add-one so that no symbol is impossible, float64 (V,)."""
    counts = np.bincount(tokens, minlength=vocab_size) + 1.0
    return np.log(counts / counts.sum())

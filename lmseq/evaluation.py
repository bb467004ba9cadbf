"""Score a stream exactly, whatever the cut.

A stream is scored by B strips in parallel. Strip r should begin with the carry that strip r - 1 ends
with, which is not known yet: so all strips are run from a guess, each is handed its neighbour's last
carry, and this is repeated until nothing changes. At that fixed point the strips chain into exactly
the sequential pass; it is reached after at most B passes (after pass k the first k strips are exact)
and, for a model that forgets, after two or three.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from lmseq.contract import Model, gather_log_probs
from lmseq.data.partition import scoring, take_batch
from lmseq.types import Carry, Params, Tokens

# Carries closer than this are one. Rounding alone keeps two passes 1e-6 apart; what a difference of
# 1e-5 at a strip's first token does to the mean over the strip is below float32's own rounding.
CARRY_TOLERANCE = 1e-5

# last carries and outputs of all strips, from their first carries
StripPass = Callable[[Carry], tuple[Carry, PyTree]]


def _same(left: Carry, right: Carry) -> Bool[Array, ""]:
    """Whether two carries agree: integers exactly, reals to CARRY_TOLERANCE (NaN equals NaN)."""

    def same(a: Array, b: Array) -> Bool[Array, ""]:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return jnp.array_equal(a, b)
        return jnp.allclose(a, b, rtol=CARRY_TOLERANCE, atol=CARRY_TOLERANCE, equal_nan=True)

    return jnp.all(jnp.stack([jnp.array(True), *jax.tree.leaves(jax.tree.map(same, left, right))]))


def chain_strips(run: StripPass, blank: Carry, num_strips: int) -> tuple[Carry, PyTree]:
    """First carries of B chained strips, and what `run` gives from them; jittable, at most B passes.

    `run` reads every strip from a carry a row; strip 0 begins with the first row of `blank`, strip r
    with the last carry of strip r - 1.
    """

    def hand_on(last: Carry) -> Carry:
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[:1], rest[:-1]]), blank, last)

    def improve(state):
        guess, _, _, passes = state
        last, outputs = run(guess)
        handed_on = hand_on(last)
        # The last possible pass ran from carries that are exact already, rounding or not.
        return handed_on, outputs, _same(guess, handed_on) | (passes + 1 >= num_strips), passes + 1

    outputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, blank)[1])
    state = (blank, outputs, jnp.array(False), jnp.array(0))
    carries, outputs, _, _ = lax.while_loop(lambda state: ~state[2], improve, state)
    return carries, outputs


def strip_carries(
    model: Model, params: Params, tokens: Tokens, starts: Int[Array, "batch"], strip_length: int
) -> Carry:
    """The carry with which each of B chained strips of `strip_length` inputs begins.

    Strip b + 1 must start where strip b ends, and strip 0 begins with nothing seen.
    """
    lengths = jnp.full(starts.shape, strip_length)
    inputs = take_batch(tokens, starts, lengths, strip_length).inputs

    def run(carry: Carry) -> tuple[Carry, None]:
        return model.unroll(params, carry, inputs)[0], None

    return chain_strips(run, model.init_carry(params, starts.shape[0]), starts.shape[0])[0]


@partial(jax.jit, static_argnums=(0, 5))
def _score_strips(model, params, tokens, starts, lengths, num_steps):
    """Log-probability of the first token, and of every target of the plan, (steps, batch, time)."""
    blank = model.init_carry(params, starts.shape[1])
    first = gather_log_probs(model.readout(params, blank)[:1], tokens[:1])

    def window(carry, row):
        batch = take_batch(tokens, *row, num_steps)
        return model.token_log_probs(params, carry, batch.inputs, batch.targets)

    def run(carry):
        return lax.scan(window, carry, (starts, lengths))

    return first, chain_strips(run, blank, starts.shape[1])[1]


def score_stream(
    model: Model, params: Params, tokens: Tokens, *, num_steps: int = 256, batch_size: int = 64
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

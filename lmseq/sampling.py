"""From log-probabilities to a token: temperature, top-k, nucleus, and the draw itself."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lmseq.predictions import draw_values
from lmseq.recurrence import library
from lmseq.types import Element, LogProbs, OfValues, Prediction, PRNGKey

SMALLEST = float(jnp.finfo(jnp.float32).tiny)  # what is nearer to zero is flushed to it

FEW = 128  # of so many candidates all pairs are compared
BLOCK = 64  # symbols that are looked at together
LOWEST = -(2**31)


class Decoding(NamedTuple):
    """How a token is chosen. The defaults sample from the model as it is.

    temperature: logits are divided by it; 0 is greedy. top_k: only the k likeliest tokens, 0 for all.
    top_p: the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def check_decoding(decoding: Decoding) -> Decoding:
    """Return `decoding`, or raise ValueError for a value outside its range."""
    # Written so that NaN, which fails every comparison, is refused too.
    if not 0.0 <= decoding.temperature <= 1e30:
        raise ValueError(f"expected a temperature from 0 (greedy) to 1e30, got {decoding.temperature}")
    if decoding.top_k < 0:
        raise ValueError(f"expected top_k of 0 (all tokens) or more, got {decoding.top_k}")
    if not 0.0 < decoding.top_p <= 1.0:
        raise ValueError(f"expected top_p in (0, 1], got {decoding.top_p}")
    return decoding


def truncate(log_probs: LogProbs, decoding: Decoding) -> LogProbs:
    """Log-probabilities (B, V) after temperature, then top-k, then top-p, normalised again.

    Left-out tokens have -inf. Ties at the border of top-k or top-p are broken by the lower id.
    Temperature 0 puts everything on the likeliest token. This is the definition, and sorts the vocabulary:
    `draw_truncated` draws from the same distribution without.
    """
    vocab_size = log_probs.shape[-1]
    if decoding == Decoding():
        return log_probs
    if decoding.temperature == 0.0:
        best = jnp.argmax(log_probs, axis=-1)
        return jnp.log(jax.nn.one_hot(best, vocab_size))
    scaled = _scaled(log_probs, decoding.temperature)
    if not (0 < decoding.top_k < vocab_size) and decoding.top_p == 1.0:
        return jax.nn.log_softmax(scaled)
    order = jnp.argsort(-scaled, axis=-1, stable=True)
    ranked = jnp.take_along_axis(scaled, order, axis=-1)
    keep = jnp.arange(vocab_size)[None] < (decoding.top_k or vocab_size)
    ranked = jax.nn.log_softmax(jnp.where(keep, ranked, -jnp.inf))
    if decoding.top_p < 1.0:
        probs = jnp.exp(ranked)
        # A token stays while the mass before it is short of p, so the likeliest always stays.
        before = jnp.cumsum(probs, axis=-1) - probs
        ranked = jax.nn.log_softmax(jnp.where(before < max(decoding.top_p, SMALLEST), ranked, -jnp.inf))
    return jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)


def _scaled(log_probs: LogProbs, temperature: float) -> LogProbs:
    """Divided by a temperature, the likeliest at 0; not normalised."""
    # The likeliest becomes 0 first and the divisor stays a float32 above zero: no temperature makes NaN.
    log_probs = log_probs - jnp.max(log_probs, axis=-1, keepdims=True)
    return log_probs / max(temperature, SMALLEST)


def draw_truncated(uniform: Float[Array, "batch 1"], log_probs: LogProbs, decoding: Decoding) -> Element:
    """Tokens, int32 (B,), by `invert` from numbers of [0, 1) and `truncate` of log-probabilities (B, V).

    Equal to `invert(uniform, truncate(log_probs, decoding))` but for sums' rounding at the border of two
    tokens or of the nucleus; V in rows that are no distribution, as of NaN. A few likeliest tokens are
    selected and drawn from alone; else a threshold is found by bisection over the bits of a float32, in
    passes over the vocabulary that sort nothing.
    """
    vocab_size = log_probs.shape[-1]
    is_cut = 0 < decoding.top_k < vocab_size
    if decoding.temperature == 0.0 or (not is_cut and decoding.top_p == 1.0):
        return invert(uniform, truncate(log_probs, decoding))
    if is_cut and decoding.top_k <= FEW:
        return _among_few(uniform, log_probs, decoding)
    scaled = _scaled(log_probs, decoding.temperature)
    rank = _rank(scaled)
    if is_cut:
        kept = _above(rank, jnp.ones_like(scaled), jnp.float32(decoding.top_k))
        scaled, rank = jnp.where(kept, scaled, -jnp.inf), jnp.where(kept, rank, LOWEST)
    if decoding.top_p < 1.0:
        kept = _above(rank, jax.nn.softmax(scaled), jnp.float32(max(decoding.top_p, SMALLEST)))
        scaled = jnp.where(kept, scaled, -jnp.inf)
    return invert(uniform, scaled)


def _among_few(uniform: Float[Array, "batch 1"], log_probs: LogProbs, decoding: Decoding) -> Element:
    """`draw_truncated` from the k likeliest tokens; on a CPU compiled beforehand, where that is loaded."""

    def by_xla(uniform: Array, log_probs: Array) -> Element:
        ranked, ids = _likeliest(_scaled(log_probs, decoding.temperature), decoding.top_k)
        probs = jax.nn.softmax(ranked)
        before = jnp.cumsum(probs, axis=-1) - probs
        probs = jnp.where(before < max(decoding.top_p, SMALLEST), probs, 0.0)
        # Cumulative in the order of ids, as `invert` goes through them.
        not_after = ids[:, :, None] <= ids[:, None, :]
        cumulative = jnp.sum(jnp.where(not_after, probs[:, :, None], 0.0), axis=1)
        total = jnp.max(cumulative, axis=-1, keepdims=True)
        reached = (cumulative > uniform * total) & (probs > 0.0)
        return jnp.min(jnp.where(reached, ids, log_probs.shape[-1]), axis=-1).astype(jnp.int32)

    def compiled(*arrays: Array) -> Element:
        limits = {
            "top_p": np.float32(max(decoding.top_p, SMALLEST)),
            "temperature": np.float32(max(decoding.temperature, SMALLEST)),
        }
        tokens = jax.ShapeDtypeStruct(log_probs.shape[:1], jnp.int32)
        return library.call("draw_likeliest", [tokens], *arrays, top_k=decoding.top_k, **limits)[0]

    if not library.suits("float32", uniform, log_probs):
        return by_xla(uniform, log_probs)
    return lax.platform_dependent(uniform, log_probs, cpu=compiled, default=by_xla)


def _likeliest(scaled: LogProbs, k: int) -> tuple[Float[Array, "batch order"], Int[Array, "batch order"]]:
    """The k largest of each row, largest first, and their ids; ties by the lower id.

    Of many symbols only the k blocks of the largest maxima are looked at: each has one of at least the k-th
    largest value, and of equal maxima the blocks of lower ids are taken, so nothing outside them is needed.
    """
    batch_size, vocab_size = scaled.shape
    num_blocks = -(-vocab_size // BLOCK)
    if num_blocks <= 2 * k:
        return tuple(lax.top_k(scaled, k))
    padded = jnp.pad(scaled, ((0, 0), (0, num_blocks * BLOCK - vocab_size)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch_size, num_blocks, BLOCK)
    chosen = jnp.sort(lax.top_k(jnp.max(blocks, axis=-1), k)[1], axis=-1)
    inside = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(batch_size, k * BLOCK)
    ranked, places = lax.top_k(inside, k)
    ids = jnp.take_along_axis(chosen, places // BLOCK, axis=-1) * BLOCK + places % BLOCK
    return ranked, ids


def _rank(scaled: LogProbs) -> Int[Array, "batch vocab"]:
    """Whole numbers below 0 in the order of float32 numbers that are not above 0."""
    bits = lax.bitcast_convert_type(scaled + 0.0, jnp.int32)  # + 0.0: minus zero is zero
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) - 1


def _above(
    rank: Int[Array, "batch vocab"], weights: Float[Array, "batch vocab"], enough: Float[Array, ""]
) -> Bool[Array, "batch vocab"]:
    """The fewest first ones, by falling rank and then by rising id, whose weights sum to `enough`; or all."""

    def lower(bit: Int[Array, ""], threshold: Int[Array, "batch 1"]) -> Int[Array, "batch 1"]:
        candidate = threshold + (jnp.int32(1) << (30 - bit))
        mass = jnp.sum(jnp.where(rank >= candidate, weights, 0.0), axis=-1, keepdims=True)
        return jnp.where(mass >= enough, candidate, threshold)

    threshold = lax.fori_loop(0, 31, lower, jnp.full((rank.shape[0], 1), LOWEST, jnp.int32))
    above, tied = rank > threshold, rank == threshold
    mass = jnp.sum(jnp.where(above, weights, 0.0), axis=-1, keepdims=True)
    of_tied = jnp.where(tied, weights, 0.0)
    before = mass + jnp.cumsum(of_tied, axis=-1) - of_tied
    return above | (tied & (before < enough))


def draw(key: PRNGKey, prediction: Prediction) -> Element:
    """One element for each row of a prediction: tokens, int32 (B,), or values, float32 (B, D).

    Tokens are drawn from log-probabilities (B, V) by the inverse CDF, `invert`. One uniform number a row:
    V times fewer random bits than the Gumbel form.
    """
    if isinstance(prediction, OfValues):
        return draw_values(key, prediction)
    return invert(jax.random.uniform(key, (prediction.shape[0], 1)), prediction)


def invert(uniform: Float[Array, "batch 1"], log_probs: LogProbs) -> Element:
    """The tokens, int32 (B,), at which cumulative probability first exceeds numbers of [0, 1).

    log_probs (B, V) need not be normalised. A token of probability zero is never chosen.
    """
    possible = log_probs > -jnp.inf
    # Sums by a product or in parallel are not monotone in the last bit: without `possible` a step of pure
    # rounding could draw what has probability zero.
    cumulative = jnp.where(possible, _cumulative(jnp.exp(log_probs)), 0.0)
    total = jnp.max(cumulative, axis=-1, keepdims=True)
    return jnp.argmax(cumulative > uniform * total, axis=-1).astype(jnp.int32)


def without(log_probs: LogProbs, never: Sequence[int]) -> LogProbs:
    """Log-probabilities (B, V) with -inf for some tokens; the others as they were, not normalised again."""
    return log_probs.at[:, jnp.array(never)].set(-jnp.inf) if never else log_probs


def choose(
    uniforms: Sequence[Float[Array, "batch 1"]],
    log_probs: LogProbs,
    decoding: Decoding,
    never: Sequence[int],
) -> Element:
    """Tokens, int32 (B,), drawn by numbers of [0, 1) from `truncate` of log-probabilities (B, V).

    never: tokens that are not chosen where anything else is possible: what is truncated is then the model's
    distribution given that none of them comes. Where nothing is truncated, a draw that falls on one of them
    is made again without them, by the second number, which is not needed otherwise: so it follows the same
    distribution, and a draw that falls on another token is what it would be if they were allowed.
    """
    if not never:
        return draw_truncated(uniforms[0], log_probs, decoding)

    def among_others(uniform: Float[Array, "batch 1"]) -> Element:
        others = without(log_probs, never)
        is_possible = jnp.any(others > -jnp.inf, axis=-1, keepdims=True)
        return draw_truncated(uniform, jnp.where(is_possible, others, log_probs), decoding)

    if decoding.top_k or decoding.top_p < 1.0:
        return among_others(uniforms[0])
    tokens = draw_truncated(uniforms[0], log_probs, decoding)
    refused = jnp.isin(tokens, jnp.array(never))
    return lax.cond(
        jnp.any(refused), lambda: jnp.where(refused, among_others(uniforms[1]), tokens), lambda: tokens
    )


def _cumulative(probs: Float[Array, "batch vocab"]) -> Float[Array, "batch vocab"]:
    """Cumulative sums over the last axis; of few symbols by one product, which is faster."""
    vocab_size = probs.shape[-1]
    if vocab_size > 512:
        return jnp.cumsum(probs, axis=-1)
    return jnp.dot(probs, jnp.triu(jnp.ones((vocab_size, vocab_size), probs.dtype)), precision="highest")

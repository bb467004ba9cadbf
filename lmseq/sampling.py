"""From log-probabilities to a token: temperature, top-k, nucleus, and the draw itself."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.predictions import draw_values
from lmseq.types import Element, LogProbs, OfValues, Prediction, PRNGKey

SMALLEST = float(jnp.finfo(jnp.float32).tiny)  # what is nearer to zero is flushed to it


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
    Temperature 0 puts everything on the likeliest token.
    """
    vocab_size = log_probs.shape[-1]
    if decoding == Decoding():
        return log_probs
    if decoding.temperature == 0.0:
        best = jnp.argmax(log_probs, axis=-1)
        return jnp.log(jax.nn.one_hot(best, vocab_size))
    # The likeliest becomes 0 first and the divisor stays a float32 above zero: no temperature makes NaN.
    log_probs = log_probs - jnp.max(log_probs, axis=-1, keepdims=True)
    log_probs = jax.nn.log_softmax(log_probs / max(decoding.temperature, SMALLEST))
    if not (0 < decoding.top_k < vocab_size) and decoding.top_p == 1.0:
        return log_probs
    order = jnp.argsort(-log_probs, axis=-1, stable=True)
    ranked = jnp.take_along_axis(log_probs, order, axis=-1)
    keep = jnp.arange(vocab_size)[None] < (decoding.top_k or vocab_size)
    ranked = jax.nn.log_softmax(jnp.where(keep, ranked, -jnp.inf))
    if decoding.top_p < 1.0:
        probs = jnp.exp(ranked)
        # A token stays while the mass before it is short of p, so the likeliest always stays.
        before = jnp.cumsum(probs, axis=-1) - probs
        ranked = jax.nn.log_softmax(jnp.where(before < max(decoding.top_p, SMALLEST), ranked, -jnp.inf))
    return jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)


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
        return invert(uniforms[0], truncate(log_probs, decoding))

    def among_others(uniform: Float[Array, "batch 1"]) -> Element:
        others = without(log_probs, never)
        is_possible = jnp.any(others > -jnp.inf, axis=-1, keepdims=True)
        return invert(uniform, truncate(jnp.where(is_possible, others, log_probs), decoding))

    if decoding.top_k or decoding.top_p < 1.0:
        return among_others(uniforms[0])
    tokens = invert(uniforms[0], truncate(log_probs, decoding))
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

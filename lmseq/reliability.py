"""Calibration of models of tokens: how often comes what has probability p; entropy of continuations."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.config.knobs import at_least
from lmseq.contract import Model, gather_log_probs, num_symbols
from lmseq.data.partition import take_batch
from lmseq.sampling import invert
from lmseq.strips import strip_carries
from lmseq.types import Params, PRNGKey, Tokens

# Of bins of probabilities. Most symbols of a vocabulary have small ones: below 0.1 they grow by factors.
EDGES = (0.0, 1e-5, 1e-4, 1e-3, 0.01, 0.03, *(i / 10 for i in range(1, 10)), 0.97, 0.99)
NUM_STEPS, NUM_STRIPS = 64, 16
MOST_ENTRIES = 2**24  # of the predictions that are held at once


class Reliability(NamedTuple):
    """Events by the probability that a model gave them; float64, each (B,), a bin from each edge to the next.

    number: events whose probability lies in the bin. expected: the sum of their probabilities, which is how
    many come of a calibrated model. observed: how many came. The last bin ends at 1, which it includes.
    """

    edges: Float[np.ndarray, "bin"]
    number: Float[np.ndarray, "bin"]
    expected: Float[np.ndarray, "bin"]
    observed: Float[np.ndarray, "bin"]

    def error(self) -> float:
        """sum |observed - expected| over the bins, in events.

        Divided by the number of places it is, of the likeliest symbol of each, the expected calibration error
        sum_b n_b / n |accuracy_b - confidence_b| of Guo et al. (2017).
        """
        return float(np.abs(self.observed - self.expected).sum())


def reliability(model: Model, params: Params, tokens: Tokens) -> tuple[Reliability, Reliability]:
    """Of a stream (T,), T >= 2: every symbol at every place but the first, and the likeliest of each.

    The state is carried from end to end, as `scoring.score_stream` does. Raises ValueError for fewer tokens.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    num_targets = tokens.shape[0] - 1
    if num_targets < 1:
        raise ValueError(f"expected at least two tokens, got {tokens.shape[0]}")
    num_steps = max(1, min(NUM_STEPS, MOST_ENTRIES // (NUM_STRIPS * num_symbols(model, params))))
    num_strips = max(1, min(NUM_STRIPS, num_targets // num_steps))
    num_windows = -(-num_targets // (num_strips * num_steps))
    found = _reliability(model, params, tokens, num_strips, num_windows, num_steps)
    found = jax.tree.map(np.asarray, found)
    # As float32, which they are compared in: one probability must not lie in two bins.
    edges, seen = np.array(EDGES, np.float32).astype(np.float64), found.mask
    above = np.stack([found.number, found.expected]).astype(np.float64).sum(axis=1)
    number, expected = above - np.append(above[:, 1:], np.zeros((2, 1)), axis=1)

    def of(probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        bins = np.searchsorted(edges, probs, side="right") - 1
        return np.bincount(bins, weights, minlength=edges.size).astype(np.float64)

    probs, most = (each[seen].astype(np.float64) for each in (found.prob, found.most))
    every = Reliability(edges, number, expected, of(probs))
    return every, Reliability(edges, of(most), of(most, most), of(most, found.is_right[seen].astype(float)))


class _Windows(NamedTuple):
    """Of each window: events from each edge on and their probabilities; by place, what came and what led."""

    number: Int[Array, "window bin"]
    expected: Float[Array, "window bin"]
    prob: Float[Array, "window batch time"]
    most: Float[Array, "window batch time"]
    is_right: Array
    mask: Array


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _reliability(model, params, tokens, num_strips, num_windows, num_steps):
    strip = num_windows * num_steps
    starts = strip * jnp.arange(num_strips, dtype=jnp.int32)

    def window(carry, begin):
        places = starts + begin
        lengths = jnp.clip(tokens.shape[0] - 1 - places, 0, num_steps)
        batch = take_batch(tokens, places, lengths, num_steps)
        carry, log_probs = model.unroll(params, carry, batch.inputs)
        probs = jnp.where(batch.mask[..., None], jnp.exp(log_probs), -1.0)
        above = [probs >= edge for edge in EDGES]
        return carry, _Windows(
            jnp.stack([jnp.sum(each, dtype=jnp.int32) for each in above]),
            jnp.stack([jnp.sum(jnp.where(each, probs, 0.0)) for each in above]),
            jnp.exp(gather_log_probs(log_probs, batch.targets)),
            jnp.max(probs, axis=-1),
            jnp.argmax(log_probs, axis=-1) == batch.targets,
            batch.mask,
        )

    carries = strip_carries(model, params, tokens, starts, strip)
    return lax.scan(window, carries, num_steps * jnp.arange(num_windows, dtype=jnp.int32))[1]


class Continuations(NamedTuple):
    """By distance from where a model begins to read its own words, float32 (N, L), nats.

    entropy: of its distribution there, after what it has drawn. loss: of the text's own token there, after
    the text. Of a calibrated model their means are equal at any distance (Braverman et al. 2020).
    """

    entropy: Float[np.ndarray, "origin time"]
    loss: Float[np.ndarray, "origin time"]


def continuations(
    key: PRNGKey, model: Model, params: Params, tokens: Tokens, *, num_origins: int, num_tokens: int
) -> Continuations:
    """A draw of L tokens from each of N places, evenly spread over a stream (T,), all of it before them read.

    The N stretches of the text do not overlap. Raises ValueError for a stream with too few tokens.
    """
    at_least(1, num_origins=num_origins, num_tokens=num_tokens)
    tokens = jnp.asarray(tokens, jnp.int32)
    least = (num_origins + 1) * num_tokens
    if tokens.shape[0] < least:
        raise ValueError(
            f"expected at least (num_origins + 1) num_tokens = {least:,} tokens, so that no stretch overlaps "
            f"another, got {tokens.shape[0]:,}: ask for fewer, or give a longer text"
        )
    return Continuations(
        *map(np.asarray, _continuations(key, model, params, tokens, num_origins, num_tokens))
    )


@partial(jax.jit, static_argnums=(1, 4, 5))
def _continuations(key, model, params, tokens, num_origins, num_tokens):
    spacing = (tokens.shape[0] - num_tokens) // num_origins
    # One strip begins with nothing seen and is no origin: hence one more than asked for.
    starts = spacing * jnp.arange(num_origins + 1, dtype=jnp.int32)
    carries = strip_carries(model, params, tokens, starts, spacing)
    carry = jax.tree.map(lambda leaf: leaf[1:], carries)
    # A carry at `start` has seen the tokens before it.
    targets = tokens[starts[1:, None] + jnp.arange(num_tokens)[None]]

    def draw(carry, uniform):
        log_probs = model.readout(params, carry)
        probs = jnp.exp(log_probs)
        entropy = -jnp.sum(jnp.where(probs > 0, probs * log_probs, 0.0), axis=-1)
        return model.update(params, carry, invert(uniform, log_probs)), entropy

    uniforms = jax.random.uniform(key, (num_tokens, num_origins, 1))
    entropy = lax.scan(draw, carry, uniforms)[1]

    def follow(carry, token):
        log_probs = model.readout(params, carry)
        return model.update(params, carry, token), -gather_log_probs(log_probs, token)

    return entropy.T, lax.scan(follow, carry, targets.T)[1].T

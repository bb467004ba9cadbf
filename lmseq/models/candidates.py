"""Softmax over a few drawn words: what training needs of a large vocabulary (Bengio and Senecal 2008)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmseq.layers import Precision, product_with_rows, softmax_log_probs
from lmseq.noise import CANDIDATES, of_batch
from lmseq.types import PRNGKey


class Candidates(NamedTuple):
    """S words drawn with replacement, int32, and ln of how often each is expected among them, float32."""

    ids: Int[Array, "candidate"]
    log_expected: Float[Array, "candidate"]


def draw_candidates(key: PRNGKey, vocab_size: int, number: int) -> Candidates:
    """S of V words: an octave of ranks r = 1 ... V, then a rank of it, 2^j <= r < 2^(j + 1), each as likely.

    That is near Zipf's law of words by rank, and its probabilities are exact for any V. One draw for all rows
    and steps of a window, of the window's key. Vocabularies of words are ranked; any other is served too,
    with more variance.
    """
    key, num_octaves = of_batch(jax.random.fold_in(key, CANDIDATES)), vocab_size.bit_length()
    first = 2 ** jax.random.randint(key, (number,), 0, num_octaves)
    size = jnp.minimum(2 * first, vocab_size + 1) - first
    rank = first + jax.random.randint(jax.random.fold_in(key, 1), (number,), 0, size)
    return Candidates(rank - 1, jnp.log(number / (num_octaves * size)))


def sampled_log_probs(
    hidden: Float[Array, "*dims hidden"],
    kernel: Float[Array, "hidden vocab"],
    bias: Float[Array, "vocab"],
    targets: Int[Array, "*dims"],
    candidates: Candidates,
    precision: Precision = "float32",
) -> Float[Array, "*dims"]:
    """An estimate of log softmax(h W + b) at the targets (...), in nats: (...).

    With logits l, targets t and candidates c it is l_t - ln Z, where

        Z = exp(l_t) + sum over the c other than t of exp(l_c) / E[number of c among the candidates]

    is the softmax's normaliser in expectation. So the loss is, by Jensen's inequality, below the exact one on
    average, and tends to it with the number of candidates.
    """
    ids, log_expected = candidates
    words = kernel.T  # of a readout that is tied, the embedding: its rows are near each other in memory
    at_target = jnp.sum(hidden * words[targets], axis=-1) + bias[targets]
    ones = (1,) * targets.ndim
    others = product_with_rows(hidden, words[ids], precision) + (bias[ids] - log_expected).reshape(*ones, -1)
    others = jnp.where(targets[..., None] == ids.reshape(*ones, -1), -jnp.inf, others)
    return at_target - jnp.logaddexp(at_target, jax.nn.logsumexp(others, axis=-1))


def target_log_probs(
    hidden: Float[Array, "*dims hidden"],
    kernel: Float[Array, "hidden vocab"],
    bias: Float[Array, "vocab"],
    targets: Int[Array, "*dims"],
    precision: Precision,
    num_candidates: int,
    key: PRNGKey | None,
) -> Float[Array, "*dims"]:
    """log softmax(h W + b) at the targets (...), in nats: exact, or, of a window's key, estimated.

    Without a key, and for no candidates, it is exact.
    """
    if key is None or not num_candidates:
        return softmax_log_probs(hidden, kernel, bias, targets, precision)
    candidates = draw_candidates(key, bias.shape[0], num_candidates)
    return sampled_log_probs(hidden, kernel, bias, targets, candidates, precision)

"""A short causal convolution of each feature by itself; its last inputs are the carry."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.mixers.mixer import Rows


def convolve(
    kernel: Float[Array, "window feature"], before: Float[Array, "batch _ feature"] | None, xs: Rows
) -> tuple[Float[Array, "batch _ feature"] | None, Rows]:
    """y_t = sum_i w_i x_{t - K + 1 + i}, (B, T, D); `before` (B, K - 1, D) came before xs (B, T, D).

    The first thing returned is the last K - 1 inputs, the next `before`; None for K = 1.
    """
    stream = xs if before is None else jnp.concatenate([before, xs], axis=1)
    length = xs.shape[1]
    weights = jnp.broadcast_to(kernel[:, None, None], (len(kernel), *xs.shape))
    convolved = sum(weights[i] * stream[:, i : i + length] for i in range(len(kernel)))
    return None if before is None else stream[:, length:], convolved

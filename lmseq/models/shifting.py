"""Windows of the last tau elements as a carry, (B, tau, ...), oldest first: how they shift and are read."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmseq.types import Covariates, Element, Elements

Window = Int[Array, "batch window"] | Float[Array, "batch window feature"]
Shifted = Int[Array, "batch time window"] | Float[Array, "batch time window feature"]


def shifted(window: Window, x: Element) -> Window:
    """The newest element in and the oldest out."""
    return jnp.concatenate([window[:, 1:], x[:, None]], axis=1)


def all_shifted(window: Window, xs: Elements) -> Shifted:
    """The windows after each of xs (B, T), all B T at once.

    window  a b c     windows of tau = 3   b c | d
    xs      d e f                          c | d e
                                             | d e f
    """
    stream = jnp.concatenate([window, xs], axis=1)
    if xs.shape[1] == 1:
        return stream[:, None, 1:]
    return stream[:, 1 + jnp.arange(xs.shape[1])[:, None] + jnp.arange(window.shape[1])[None]]


def last_shifted(window: Window, xs: Elements) -> Window:
    """The window after all of xs (B, T)."""
    return jnp.concatenate([window, xs], axis=1)[:, -window.shape[1] :]


def newest_known(
    windows: Float[Array, "*dims window feature"], num_features: int, covariates: Covariates
) -> Float[Array, "*dims covariate"] | None:
    """What the newest element of each window knows of the time of the next; None where that is nothing."""
    end = num_features + covariates.known
    return windows[..., -1, num_features:end] if covariates.known else None


def flat_width(tau: int, num_features: int, covariates: Covariates) -> int:
    """The width of `flat`."""
    return tau * (num_features + covariates.known + covariates.past) + covariates.static


def flat(
    windows: Float[Array | np.ndarray, "*dims window feature"], num_static: int
) -> Float[Array | np.ndarray, "*dims input"]:
    """Each window as one vector; columns that never change, the last ones of an element, come once.

    Works on NumPy arrays and on those of JAX.
    """
    width = windows.shape[-1] - num_static
    seen = windows[..., :width].reshape(*windows.shape[:-2], windows.shape[-2] * width)
    if not num_static:
        return seen
    join = jnp.concatenate if isinstance(windows, jax.Array) else np.concatenate
    return join([seen, windows[..., -1, width:]], axis=-1)

"""What mixes a sequence's steps: a pure step, the same over many steps, and a carry between.

A mixer is a frozen dataclass of its sizes; its parameters are a plain dict that `init` draws. It takes H
features a step and gives H.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.layers import Precision
from lmseq.types import Carry, Params, PRNGKey

Row = Float[Array, "batch feature"]
Rows = Float[Array, "batch time feature"]


class Spread(NamedTuple):
    """Standard deviations of the first weights: of products inside, and of the last before the sum.

    None: one over the square root of the number of inputs (LeCun et al. 1998).
    """

    inside: float | None = None
    last: float | None = None


class Mixer(ABC):
    """The state of what was seen, and what each step makes of it."""

    @abstractmethod
    def init(self, key: PRNGKey, width: int, spread: Spread) -> Params:
        """Draw the parameters of a mixer of H = width features, a dict of float32 arrays."""

    @abstractmethod
    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """What is known before the first step; every leaf has `batch_size` rows."""

    @abstractmethod
    def step(self, params: Params, carry: Carry, x: Row) -> tuple[Carry, Row]:
        """The next carry, and the output (B, H) of one step x (B, H)."""

    @abstractmethod
    def unroll(
        self, params: Params, carry: Carry, xs: Rows, precision: Precision = "float32"
    ) -> tuple[Carry, Rows]:
        """The last carry and the outputs (B, T, H): equals the scan of `step`.

        precision: of products with parameters; what a state or a cache takes part in stays as it is.
        """

    def check(self, width: int) -> None:
        """Raise ValueError unless the mixer fits H = width features, as one without heads always does."""
        del width


def draw_kernel(key: PRNGKey, rows: int, columns: int, spread: float | None) -> Float[Array, "feature out"]:
    """A kernel (D, O) of normal numbers with that standard deviation, see `Spread`."""
    return (rows**-0.5 if spread is None else spread) * jax.random.normal(key, (rows, columns))


def rms_norm(
    x: Float[Array, "*dims feature"], scale: Float[Array, "feature"] | None = None, least: float = 1e-6
) -> Float[Array, "*dims feature"]:
    """x / sqrt(mean x^2 + least) times a scale, over the last axis (Zhang and Sennrich 2019)."""
    normed = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + least)
    return normed if scale is None else normed * jnp.broadcast_to(scale, x.shape)


def in_heads(x: Float[Array, "*dims feature"], num_heads: int) -> Float[Array, "*dims head _"]:
    """(..., N d) as (..., N, d)."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def out_of_heads(x: Float[Array, "*dims head _"]) -> Float[Array, "*dims feature"]:
    """(..., N, d) as (..., N d)."""
    return x.reshape(*x.shape[:-2], -1)


def check_heads(num_heads: int, width: int, what: str = "hidden_size") -> None:
    """Raise ValueError unless so many heads share the features out evenly."""
    if width % num_heads:
        raise ValueError(
            f"expected num_heads to divide {what}, got {num_heads} heads and {width}: choose another number"
        )

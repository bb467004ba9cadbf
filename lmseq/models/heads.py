"""From a hidden vector to a prediction of values: a point, or a normal distribution."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.layers import affine
from lmseq.types import Normal

HeadKind = Literal["point", "normal"]
SMALLEST_SCALE = 1e-4  # of standardised values: a series without noise must not have an infinite density


class ValueHead(nn.Module):
    """Affine maps of hidden (..., H) to mean and scale (..., D) of the next value, or of the next K.

    The point head's scale is 1: maximising its log-density is minimising the squared error. The normal
    head's scale is softplus of a map of its own, plus a floor (Nix and Weigend 1994).
    """

    width: int
    num_features: int
    head: HeadKind
    num_direct: int = 1

    def setup(self) -> None:
        """Declare the parameters."""
        kernel, out = nn.initializers.lecun_normal(), self.num_direct * self.num_features
        self.mean_kernel = self.param("mean_kernel", kernel, (self.width, out))
        self.mean_bias = self.param("mean_bias", nn.initializers.zeros, (out,))
        if self.head == "normal":
            self.scale_kernel = self.param("scale_kernel", kernel, (self.width, out))
            self.scale_bias = self.param("scale_bias", nn.initializers.zeros, (out,))

    def direct(self, hidden: Float[Array, "*dims hidden"]) -> Normal:
        """Mean and scale of the next K values, (..., K, D)."""
        shape = (*hidden.shape[:-1], self.num_direct, self.num_features)
        mean = affine(hidden, self.mean_kernel, self.mean_bias).reshape(shape)
        if self.head == "point":
            return Normal(mean, jnp.ones_like(mean))
        scale = jax.nn.softplus(affine(hidden, self.scale_kernel, self.scale_bias))
        return Normal(mean, scale.reshape(shape) + SMALLEST_SCALE)

    def __call__(self, hidden: Float[Array, "*dims hidden"]) -> Normal:
        """Mean and scale of the next value, (..., D)."""
        mean, scale = self.direct(hidden)
        return Normal(mean[..., 0, :], scale[..., 0, :])

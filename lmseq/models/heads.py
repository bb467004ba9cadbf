"""From a hidden vector to a prediction of values: a point, a distribution, or quantiles."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.layers import affine, product
from lmseq.types import LEVELS, Laplace, NegativeBinomial, Normal, OfValues, Quantiles, StudentT

HeadKind = Literal["point", "median", "normal", "student", "counts", "quantiles"]
SINGLE: tuple[HeadKind, ...] = ("point", "median")  # of one value and no spread
KNOWN_GAIN = 3.0  # of what is known ahead: so its effects are found in as few steps as the rest overfits in
SMALLEST_SCALE = 1e-4  # of standardised values: a series without noise must not have an infinite density


class ValueHead(nn.Module):
    """Affine maps of hidden (..., H) to a prediction (..., D) of the next value, or of the next K.

    The point head's scale is 1: maximising its log-density is minimising the squared error, and for the
    median head, which is of a Laplace distribution, the absolute error. The normal
    head's scale is softplus of a map of its own, plus a floor (Nix and Weigend 1994); so is Student's, whose
    degrees of freedom are 2 and softplus of a third. Mean and dispersion of counts are softplus of a map each
    (Salinas et al. 2020). Quantiles are the median and softplus steps away from it, so that they never cross.

    With num_known covariates u that are known ahead, sum_{j < k} G_j u_{t+k-j} is added to what the mean of
    the k-th step is made of, a causal filter that is the same for all steps; not shared, each step has
    weights of its own for each covariate of each step.
    """

    width: int
    num_features: int
    head: HeadKind
    num_direct: int = 1
    num_known: int = 0
    is_shared: bool = True

    def setup(self) -> None:
        """Declare the parameters."""
        out = self.num_direct * self.num_features
        self.mean_kernel, self.mean_bias = self._map("mean", out)
        if self.head not in SINGLE:
            steps = len(LEVELS) - 1 if self.head == "quantiles" else 1
            self.scale_kernel, self.scale_bias = self._map("scale", out * steps)
        if self.head == "student":
            self.freedom_kernel, self.freedom_bias = self._map("freedom", out)
        if self.num_known:
            shape = (self.num_direct, self.num_known, self.num_features)
            if not self.is_shared:
                shape = (self.num_direct * self.num_known, out)
            self.known_kernel = self.param("known_kernel", nn.initializers.zeros, shape)

    def _map(self, name: str, out: int) -> tuple[Float[Array, "hidden out"], Float[Array, "out"]]:
        kernel = self.param(f"{name}_kernel", nn.initializers.lecun_normal(), (self.width, out))
        return kernel, self.param(f"{name}_bias", nn.initializers.zeros, (out,))

    def _of_known(self, known: Float[Array, "*dims lead covariate"]) -> Float[Array, "*dims horizon feature"]:
        """What covariates known L steps ahead add, (..., K, D): nothing, where they are not given."""
        steps, dims = self.num_direct, known.shape[:-2]
        lacking = jnp.zeros((*dims, max(0, steps - known.shape[-2]), self.num_known))
        rows = jnp.concatenate([known[..., :steps, :], lacking], axis=-2).reshape(*dims, -1)
        kernel = self.known_kernel
        if self.is_shared:
            kernel = KNOWN_GAIN * kernel
            lag = jnp.arange(steps)[None] - jnp.arange(steps)[:, None]  # of a step behind a lead
            each = jnp.where(lag[..., None, None] >= 0, kernel[jnp.maximum(lag, 0)], 0.0)
            kernel = jnp.swapaxes(each, 1, 2).reshape(rows.shape[-1], -1)
        return product(rows, kernel).reshape(*dims, steps, self.num_features)

    def direct(
        self,
        hidden: Float[Array, "*dims hidden"],
        known: Float[Array, "*dims lead covariate"] | None = None,
    ) -> OfValues:
        """The next K values, (..., K, D), of covariates known L steps ahead."""
        shape = (*hidden.shape[:-1], self.num_direct, self.num_features)
        mean = affine(hidden, self.mean_kernel, self.mean_bias).reshape(shape)
        if self.num_known:
            mean = mean + self._of_known(known)
        if self.head in SINGLE:
            return (Normal if self.head == "point" else Laplace)(mean, jnp.ones_like(mean))
        scale = jax.nn.softplus(affine(hidden, self.scale_kernel, self.scale_bias))
        if self.head == "quantiles":
            return Quantiles(_around(mean, scale.reshape(*shape, len(LEVELS) - 1)))
        scale = scale.reshape(shape) + SMALLEST_SCALE
        if self.head == "counts":
            return NegativeBinomial(jax.nn.softplus(mean) + SMALLEST_SCALE, scale)
        if self.head == "normal":
            return Normal(mean, scale)
        freedom = 2.0 + jax.nn.softplus(affine(hidden, self.freedom_kernel, self.freedom_bias))
        return StudentT(mean, scale, freedom.reshape(shape) + SMALLEST_SCALE)

    def __call__(
        self, hidden: Float[Array, "*dims hidden"], known: Float[Array, "*dims covariate"] | None = None
    ) -> OfValues:
        """The next value, (..., D), of covariates known of its time."""
        axis = hidden.ndim - 1
        found = self.direct(hidden, None if known is None else known[..., None, :])
        return jax.tree.map(lambda leaf: lax.index_in_dim(leaf, 0, axis, keepdims=False), found)


def _around(
    median: Float[Array, "*dims feature"], steps: Float[Array, "*dims feature _"]
) -> Float[Array, "*dims feature level"]:
    """Quantiles from a median and the positive steps away from it, those below first, nearest first."""
    half, middle = len(LEVELS) // 2, median[..., None]
    below = middle - jnp.cumsum(steps[..., :half], axis=-1)
    above = middle + jnp.cumsum(steps[..., half:], axis=-1)
    return jnp.concatenate([below[..., ::-1], middle, above], axis=-1)

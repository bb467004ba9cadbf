"""Windows made alike before a model sees them, and forecasts brought back exactly.

The statistics of a window come from its inputs alone, never from what is predicted, so that one model serves
series of any level and size:

    none       the values as they are
    last       minus the last input                                (NLinear: Zeng et al. 2023)
    mean       minus the mean of the inputs
    scale      over the mean absolute value of the inputs          (DeepAR: Salinas et al. 2020)
    instance   minus the mean, over the deviation of the inputs    (RevIN: Kim et al. 2022)
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmseq.contract import (
    Model,
    Predictions,
    StepModel,
    check_key,
    first_carry,
    predict_directly,
    unroll_by_carries,
    with_covariates,
)
from lmseq.models.shifting import all_shifted, last_shifted, shifted
from lmseq.predictions import rescaled
from lmseq.types import Carry, Covariates, Element, Elements, OfValues, Params, Prediction, PRNGKey

Normalisation = Literal["none", "last", "mean", "scale", "instance"]
SMALLEST = 1e-30  # of a window's size: what is divided by less overflows
Inputs = Float[Array | np.ndarray, "*dims window feature"]
PerWindow = Float[Array | np.ndarray, "*dims 1 feature"]


class Statistics(NamedTuple):
    """What is subtracted from the values of a window, and what they are then divided by, (..., 1, D)."""

    shift: PerWindow
    scale: PerWindow

    def apply(self, values: Inputs) -> Inputs:
        """Values (..., T, D), normalised."""
        return (values - self.shift) / self.scale

    def undo(self, values: Inputs) -> Inputs:
        """The inverse of `apply`."""
        return values * self.scale + self.shift


def statistics(windows: Inputs, kind: Normalisation) -> Statistics:
    """The statistics of windows (..., tau, D), of each variable by itself, in their own floating type.

    A size that is nothing but rounding counts as 1: a window that is constant stays as it is, but for its
    level. Works on NumPy arrays and on those of JAX.
    """
    nothing = windows[..., -1:, :] * 0
    match kind:
        case "none":
            return Statistics(nothing, nothing + 1)
        case "last":
            return Statistics(windows[..., -1:, :], nothing + 1)
        case "mean":
            return Statistics(windows.mean(axis=-2, keepdims=True), nothing + 1)
        case "scale":
            return Statistics(nothing, _size(abs(windows).mean(axis=-2, keepdims=True), windows))
        case "instance":
            shift = windows.mean(axis=-2, keepdims=True)
            return Statistics(shift, _size(windows.std(axis=-2, keepdims=True), windows))
        case _:
            raise ValueError(f"expected a normalisation none, last, mean, scale or instance, got {kind!r}")


def _size(sizes: PerWindow, windows: Inputs) -> PerWindow:
    """Sizes (..., 1, D), 1 where they are rounding of the windows' values."""
    where = jnp.where if isinstance(windows, jax.Array) else np.where
    rounding = 4 * float(np.finfo(windows.dtype).eps) * abs(windows).max(axis=-2, keepdims=True)
    return where(sizes > rounding + SMALLEST, sizes, 1.0).astype(windows.dtype)


@dataclass(frozen=True)
class Normalised(StepModel):
    """A model of values that sees the last tau of them, normalised; the carry is that window, (B, tau, D).

    A model with a state of its own reads the window from its initial state at each readout, so that its
    memory is the window too. Before tau values were seen the window is filled up with zeros. Covariates are
    further columns of the window, which are left as they are.
    """

    model: Model
    kind: Normalisation
    tau: int
    num_features: int
    covariates: Covariates = Covariates()

    @property
    def memory(self) -> int:
        """The window."""
        return self.tau

    def init(self, key: PRNGKey) -> Params:
        """Those of the model."""
        return self.model.init(key)

    def init_carry(self, params: Params, batch_size: int) -> Float[Array, "batch window feature"]:
        """A window of zeros."""
        return jnp.zeros((batch_size, self.tau, self.num_features + self.covariates.total))

    def update(self, params: Params, carry: Carry, x: Element) -> Carry:
        """Shift the newest value in and the oldest out."""
        return shifted(carry, x)

    def carries(self, params: Params, carry: Carry, xs: Elements) -> Carry:
        """All B T windows at once."""
        return all_shifted(carry, xs)

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Predictions]:
        """The predictions from all windows, read out at once; there is no noise."""
        check_key(training, key)
        _, predictions = unroll_by_carries(self, params, carry, xs)
        return last_shifted(carry, xs), predictions

    def _read(self, params: Params, carry: Carry) -> tuple[Carry, Statistics]:
        """The model's carry after a normalised window a row, and the statistics of the windows."""
        values, rest = carry[..., : self.num_features], carry[..., self.num_features :]
        found = statistics(values, self.kind)
        start = first_carry(self.model, params, carry)
        return self.model.unroll(params, start, with_covariates(found.apply(values), rest))[0], found

    def readout(self, params: Params, carry: Carry) -> Prediction:
        """The model's prediction from the normalised window, in the units of the values."""
        inner, found = self._read(params, carry)
        one = jax.tree.map(lambda leaf: leaf[:, None], self.model.readout(params, inner))
        return jax.tree.map(lambda leaf: leaf[:, 0], rescaled(one, *found))


class DirectNormalised(Normalised):
    """The same of a model that predicts several steps at once."""

    def readout_direct(
        self, params: Params, carry: Carry, known: Float[Array, "batch lead covariate"] | None = None
    ) -> OfValues:
        """The next K values at once, (B, K, D), of covariates known L steps ahead."""
        inner, found = self._read(params, carry)
        return rescaled(predict_directly(self.model, params, inner, known), *found)

"""What knows nothing or next to nothing: the forecasts that a model of a series must beat.

Standardised values throughout, so that the mean is zero. None has parameters; each is a `Model`, so the
same code predicts with them, k steps ahead too.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmseq.contract import StepModel
from lmseq.models.shifting import shifted
from lmseq.types import Carry, Normal, Params, PRNGKey

Value = Float[Array, "batch feature"]
LARGEST = 1 << 24  # numbers of windows that are made on the host


@dataclass(frozen=True)
class Baseline(StepModel):
    """A forecast of D values that is a point: its scale is 1, and there is nothing to learn."""

    num_features: int

    def init(self, key: PRNGKey) -> Params:
        """Nothing."""
        return {}


def _point(mean: Value) -> Normal:
    return Normal(mean, jnp.ones_like(mean))


class Repeated(Baseline):
    """A forecast that repeats what was seen: `rollout.HostModel`, as nothing is computed."""

    def host_points(
        self, params: Params, windows: Float[np.ndarray, "origin window feature"], horizon: int
    ) -> Float[np.ndarray, "origin horizon feature"]:
        """The windows (O, memory, D) again and again, (O, K, D): the very values, in their own type."""
        return windows[:, np.arange(horizon) % windows.shape[1]]

    def takes_host(self, num_origins: int, horizon: int) -> bool:
        """Whether the windows of all origins are few numbers."""
        return num_origins * self.memory * self.num_features <= LARGEST


class Mean(Baseline):
    """Always the mean of the training part; the carry is empty but for its rows."""

    memory: ClassVar[int | None] = 1

    def init_carry(self, params: Params, batch_size: int) -> Float[Array, "batch 0"]:
        """Nothing is remembered."""
        return jnp.zeros((batch_size, 0))

    def update(self, params: Params, carry: Carry, x: Value) -> Carry:
        """Nothing is learned from x."""
        return carry

    def readout(self, params: Params, carry: Float[Array, "batch 0"]) -> Normal:
        """Zeros."""
        return _point(jnp.zeros((carry.shape[0], self.num_features)))


class Persistence(Repeated):
    """The last value again."""

    memory: ClassVar[int | None] = 1

    def init_carry(self, params: Params, batch_size: int) -> Value:
        """The mean, before anything was seen."""
        return jnp.zeros((batch_size, self.num_features))

    def update(self, params: Params, carry: Value, x: Value) -> Value:
        """The value itself."""
        return x

    def readout(self, params: Params, carry: Value) -> Normal:
        """The last value."""
        return _point(carry)


@dataclass(frozen=True)
class SeasonalNaive(Repeated):
    """The value of one period ago; the carry is the last period, (B, period, D)."""

    period: int

    @property
    def memory(self) -> int:
        """A period."""
        return self.period

    def init_carry(self, params: Params, batch_size: int) -> Float[Array, "batch period feature"]:
        """The mean, a whole period of it."""
        return jnp.zeros((batch_size, self.period, self.num_features))

    def update(self, params: Params, carry: Float[Array, "batch period feature"], x: Value) -> Carry:
        """Shift the newest value in and the oldest out."""
        return shifted(carry, x)

    def readout(self, params: Params, carry: Float[Array, "batch period feature"]) -> Normal:
        """The oldest value."""
        return _point(carry[:, 0])


class DriftCarry(NamedTuple):
    """First and last value seen, (B, D), and how many were."""

    first: Value
    last: Value
    count: Int[Array, "batch"]


class Drift(Baseline):
    """The straight line from the first value through the last."""

    def init_carry(self, params: Params, batch_size: int) -> DriftCarry:
        """The mean twice."""
        blank = jnp.zeros((batch_size, self.num_features))
        return DriftCarry(blank, jnp.zeros_like(blank), jnp.zeros(batch_size, jnp.int32))

    def update(self, params: Params, carry: DriftCarry, x: Value) -> DriftCarry:
        """Keep the first, replace the last, count."""
        first = jnp.where(carry.count[:, None] == 0, x, carry.first)
        return DriftCarry(first, x, carry.count + 1)

    def readout(self, params: Params, carry: DriftCarry) -> Normal:
        """last + (last - first) / (count - 1)."""
        steps = jnp.maximum(carry.count - 1, 1)[:, None]
        return _point(carry.last + (carry.last - carry.first) / steps)

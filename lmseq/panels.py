"""Forecasts of many series of unequal lengths, from many origins each, by one model."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from lmseq.contract import Model
from lmseq.rollout import HostModel, last_windows, rollout
from lmseq.types import Carry, Params

LARGEST = 1 << 24  # numbers that carries or forecasts of one call of a program hold


class Origins(NamedTuple):
    """Places of a series to predict from: after `first` values, `first + step` and so on, `count` of them."""

    first: int
    count: int
    step: int = 1

    @property
    def last(self) -> int:
        """The last of them."""
        return self.first + (self.count - 1) * self.step

    def places(self) -> np.ndarray:
        """All of them, (O,)."""
        return self.first + self.step * np.arange(self.count)


def panel_points(
    model: Model,
    params: Params,
    series: Sequence[np.ndarray],
    origins: Sequence[Origins],
    *,
    max_horizon: int,
) -> list[np.ndarray]:
    """Forecasts 1 ... K steps ahead from the origins of each series, (O_n, K, D) each, in their order.

    series: standardised values (T_n, D). An origin t has seen values[:t], all of them, and nothing after. The
    steps between the origins are the same for all series. A model that remembers a window is given only that;
    any other reads a series from its beginning. Raises ValueError for an origin with nothing before it or
    beyond the end.
    """
    for values, each in zip(series, origins, strict=True):
        if each.count and not 1 <= each.first <= each.last <= len(values):
            raise ValueError(
                f"expected origins after 1 to {len(values)} values, got {each.first} to {each.last}"
            )
    if getattr(model, "memory", None) is not None:
        return _by_windows(model, params, series, origins, max_horizon)
    return _by_states(model, params, series, origins, max_horizon)


def _split(points: np.ndarray, origins: Sequence[Origins]) -> list[np.ndarray]:
    return np.split(points, np.cumsum([each.count for each in origins])[:-1])


def _by_windows(
    model: Model, params: Params, series: Sequence[np.ndarray], origins: Sequence[Origins], horizon: int
) -> list[np.ndarray]:
    pairs = zip(series, origins, strict=True)
    windows = np.concatenate([last_windows(values, each.places(), model.memory) for values, each in pairs])
    if isinstance(model, HostModel) and model.takes_host(len(windows), horizon):
        return _split(model.host_points(params, windows, horizon), origins)
    size = max(1, LARGEST // (max(windows.shape[1], horizon) * windows.shape[2]))
    found = [_from_windows(model, params, block, horizon)[: len(block)] for block in _blocks(windows, size)]
    return _split(np.concatenate([np.asarray(each) for each in found])[: len(windows)], origins)


def _blocks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in blocks of one size, so that one program serves them all; the last is filled up."""
    if len(rows) <= size:
        return [rows]
    number = -(-len(rows) // size)
    size = -(-len(rows) // number)
    filled = np.minimum(np.arange(number * size), len(rows) - 1)
    return np.split(rows[filled], number)


@partial(jax.jit, static_argnums=(0, 3))
def _from_windows(model, params, windows, horizon):
    carry = model.unroll(params, model.init_carry(params, windows.shape[0]), windows)[0]
    return rollout(model, params, carry, horizon)


def _by_states(
    model: Model, params: Params, series: Sequence[np.ndarray], origins: Sequence[Origins], horizon: int
) -> list[np.ndarray]:
    """Series aligned at their last origins; those that are shorter begin later."""
    num_origins, step = max(each.count for each in origins), max(each.step for each in origins)
    longest = max(each.last for each in origins if each.count)
    num_features = series[0].shape[1]
    aligned = np.zeros((len(series), longest, num_features), np.float32)
    began = np.full(len(series), longest)
    for row, (values, each) in enumerate(zip(series, origins, strict=True)):
        if each.count:
            began[row] = longest - each.last
            aligned[row, began[row] :] = values[: each.last]
    # Those of a series with fewer origins than others are the last ones.
    places = longest - step * np.arange(num_origins)[::-1]
    # How many series at once: their forecasts, and the carries of as many rows.
    size = max(1, LARGEST // (num_origins * max(horizon, 256) * num_features))
    rows = np.arange(len(series))
    found = []
    for block in _blocks(rows, size):
        valid = np.arange(longest)[None] >= began[block][:, None]
        points = _from_states(
            model, params, aligned[block], valid, jnp.asarray(np.maximum(places, 0)), horizon
        )
        found.append(np.asarray(points))
    points = np.concatenate(found)[: len(series)]
    return [points[row, num_origins - each.count :] for row, each in enumerate(origins)]


@partial(jax.jit, static_argnums=(0, 5))
def _from_states(
    model: Model,
    params: Params,
    values: Float[Array, "batch time feature"],
    valid: Bool[Array, "batch time"],
    places: Array,
    horizon: int,
) -> Float[Array, "batch origin horizon feature"]:
    """Each row is read from its first valid value on; a carry is kept at each place, after so many steps."""
    start = model.init_carry(params, values.shape[0])
    kept = jax.tree.map(lambda leaf: jnp.zeros((places.shape[0], *leaf.shape), leaf.dtype), start)

    def step(state: tuple[Carry, Carry], now: tuple) -> tuple[tuple[Carry, Carry], None]:
        carry, kept = state
        number, x, is_valid = now

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(is_valid.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        carry = jax.tree.map(chosen, model.update(params, carry, x), carry)
        at = jnp.searchsorted(places, number + 1)
        here = (at < places.shape[0]) & (places[jnp.minimum(at, places.shape[0] - 1)] == number + 1)
        slot = jnp.where(here, at, places.shape[0])  # out of range: dropped
        kept = jax.tree.map(lambda all_, one: all_.at[slot].set(one, mode="drop"), kept, carry)
        return (carry, kept), None

    by_time = (jnp.arange(values.shape[1]), jnp.swapaxes(values, 0, 1), valid.T)
    (_, kept), _ = lax.scan(step, (start, kept), by_time)
    carries = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), kept)
    points = rollout(model, params, carries, horizon)
    return points.reshape(values.shape[0], places.shape[0], *points.shape[1:])

"""Forecasts of many series of unequal lengths, from many origins each, by one model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lmseq.contract import Model, covariates_of, log_prob, predict_directly
from lmseq.data.prepared import PreparedPanel
from lmseq.rollout import LARGEST, DirectModel, HostModel, last_windows, on_host, rollout
from lmseq.types import Carry, OfValues, Params


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


def _known(origins: Sequence[Origins], ahead: Sequence[np.ndarray] | None) -> Sequence[np.ndarray]:
    """What is known ahead of the origins, or columns of nothing."""
    return ahead if ahead is not None else [np.zeros((each.count, 0)) for each in origins]


def panel_points(
    model: Model,
    params: Params,
    series: Sequence[np.ndarray],
    origins: Sequence[Origins],
    ahead: Sequence[np.ndarray] | None = None,
    *,
    max_horizon: int,
) -> list[np.ndarray]:
    """Forecasts 1 ... K steps ahead from the origins of each series, (O_n, K, D) each, in their order.

    series: standardised values (T_n, D). An origin t has seen values[:t], all of them, and nothing after. The
    steps between the origins are the same for all series. A model that remembers a window is given only that;
    any other reads a series from its beginning. Of a model that reads covariates, values are the elements
    with them, and ahead is (O_n, K, C) of each series, as `rollout` takes it. Raises ValueError for an origin
    with nothing before it or beyond the end.
    """
    _check_origins(series, origins)
    memory = getattr(model, "memory", None)
    if memory is not None and isinstance(model, HostModel):
        windows = _windows(series, origins, memory)
        if model.takes_host(len(windows), max_horizon):
            rows = None if ahead is None else np.concatenate(list(ahead))
            return _split(on_host(model, params, windows, max_horizon, rows), origins)
    return _from_carries(_Horizon(max_horizon), model, params, series, origins, _known(origins, ahead))


def panel_log_probs(
    model: Model,
    params: Params,
    series: Sequence[np.ndarray],
    origins: Sequence[Origins],
    ahead: Sequence[np.ndarray] | None = None,
    *,
    horizon: int,
) -> list[np.ndarray]:
    """Log-density in nats of the K values after each origin of each series, (O_n, K) each.

    K is 1, or at most as many as the model predicts at once from the carry of the origin. Arguments and
    errors are those of `panel_points`.
    """
    _check_origins(series, origins)
    num_features = series[0].shape[1] - covariates_of(model).total
    beside = []
    for place, (values, each) in enumerate(zip(series, origins, strict=True)):
        targets = values_ahead(values[:, :num_features], each, horizon)
        beside.append(targets if ahead is None else np.concatenate([targets, ahead[place]], axis=-1))
    return _from_carries(_log_probs_ahead, model, params, series, origins, beside)


def panel_predictions(
    model: Model,
    params: Params,
    series: Sequence[np.ndarray],
    origins: Sequence[Origins],
    ahead: Sequence[np.ndarray] | None = None,
    *,
    horizon: int,
) -> list[OfValues]:
    """What the model predicts of the K values after each origin of each series, (O_n, K, D) each.

    K is 1, or at most as many as the model predicts at once from the carry of the origin. Arguments and
    errors are those of `panel_points`.
    """
    _check_origins(series, origins)
    return _from_carries(_Directly(horizon), model, params, series, origins, _known(origins, ahead))


def read_from(
    panel: PreparedPanel, origins: Sequence[Origins], horizon: int
) -> tuple[list[np.ndarray], Sequence[Origins], list[np.ndarray] | None]:
    """What a model reads to forecast the series of a panel K steps ahead: `series`, `origins`, `ahead`."""
    values = [each.inputs for each in panel.members]
    if not panel.covariates.total:
        return values, origins, None
    pairs = zip(panel.members, origins, strict=True)
    return values, origins, [each.ahead(part.places(), horizon) for each, part in pairs]


def values_ahead(
    values: Float[np.ndarray, "time feature"], origins: Origins, horizon: int
) -> Float[np.ndarray, "origin horizon feature"]:
    """What came after each origin: the next K of values (T, D), (O, K, D)."""
    ahead = np.lib.stride_tricks.sliding_window_view(values, horizon, axis=0)
    return np.moveaxis(ahead[origins.places()], -1, 1)


def _check_origins(series: Sequence[np.ndarray], origins: Sequence[Origins]) -> None:
    for values, each in zip(series, origins, strict=True):
        if each.count and not 1 <= each.first <= each.last <= len(values):
            raise ValueError(
                f"expected origins after 1 to {len(values)} values, got {each.first} to {each.last}"
            )


@dataclass(frozen=True)
class _Horizon:
    """`rollout` to a horizon, as what is made of carries."""

    horizon: int

    def __call__(self, model: Model, params: Params, carry: Carry, beside: Array) -> Array:
        ahead = beside if covariates_of(model).total else None
        return rollout(model, params, carry, self.horizon, ahead)


@dataclass(frozen=True)
class _Directly:
    """What is predicted of the next steps from a carry alone, as what is made of carries."""

    horizon: int

    def __call__(self, model: Model, params: Params, carry: Carry, beside: Array) -> OfValues:
        if not isinstance(model, DirectModel):
            return jax.tree.map(lambda leaf: leaf[:, None], model.readout(params, carry))
        ahead = beside if covariates_of(model).total else None
        prediction = predict_directly(model, params, carry, ahead)
        return jax.tree.map(lambda leaf: leaf[:, : self.horizon], prediction)


def _log_probs_ahead(model: Model, params: Params, carry: Carry, beside: Array) -> Array:
    """Of targets after each carry, (O, K), from targets and covariates (O, K, D + C)."""
    ahead = beside[..., beside.shape[-1] - covariates_of(model).total :]
    return log_prob(_Directly(beside.shape[1])(model, params, carry, ahead), beside)


# What is made of the carries at origins and of what belongs to each, as rows of one array or of several.
_Rows = Array | OfValues
_Use = Callable[[Model, Params, Carry, Array], _Rows]


def _from_carries(
    use: _Use,
    model: Model,
    params: Params,
    series: Sequence[np.ndarray],
    origins: Sequence[Origins],
    beside: Sequence[np.ndarray],
) -> list[Any]:
    memory = getattr(model, "memory", None)
    if memory is None:
        return _by_states(use, model, params, series, origins, beside)
    windows, rest = _windows(series, origins, memory), np.concatenate(list(beside)).astype(np.float32)
    width = max(memory, getattr(use, "horizon", 0), *rest.shape[1:2])
    # Of an average a carry has each member's window.
    size = max(1, LARGEST // max(width * windows.shape[2], _held(model, params)))
    found = [
        jax.tree.map(np.asarray, _from_windows(use, model, params, windows[rows], rest[rows]))
        for rows in _blocks(np.arange(len(windows)), size)
    ]
    return _split(_joined(found, len(windows)), origins)


def _held(model: Model, params: Params) -> int:
    """Numbers of a carry."""
    carry = jax.eval_shape(lambda params: model.init_carry(params, 1), params)
    return sum(leaf.size for leaf in jax.tree.leaves(carry))


def _windows(series: Sequence[np.ndarray], origins: Sequence[Origins], width: int) -> np.ndarray:
    pairs = zip(series, origins, strict=True)
    return np.concatenate([last_windows(values, each.places(), width) for values, each in pairs])


def _joined(parts: Sequence[Any], count: int) -> Any:
    """The first rows of parts, one behind the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def _split(rows: Any, origins: Sequence[Origins]) -> list[Any]:
    ends = np.cumsum([each.count for each in origins])
    places = [slice(end - each.count, end) for each, end in zip(origins, ends, strict=True)]
    return [jax.tree.map(itemgetter(place), rows) for place in places]


def _blocks(rows: np.ndarray, size: int) -> list[Any]:
    """Rows in blocks of one size, so that one program serves them all; the last is filled up."""
    if len(rows) <= size:
        return [rows]
    number = -(-len(rows) // size)
    size = -(-len(rows) // number)
    filled = np.minimum(np.arange(number * size), len(rows) - 1)
    return np.split(rows[filled], number)


@partial(jax.jit, static_argnums=(0, 1))
def _from_windows(use, model, params, windows, beside):
    carry = model.unroll(params, model.init_carry(params, windows.shape[0]), windows)[0]
    return use(model, params, carry, beside)


def _by_states(
    use: _Use,
    model: Model,
    params: Params,
    series: Sequence[np.ndarray],
    origins: Sequence[Origins],
    beside: Sequence[np.ndarray],
) -> list[Any]:
    """Series aligned at their last origins; those that are shorter begin later."""
    num_origins, step = max(each.count for each in origins), max(each.step for each in origins)
    longest = max(each.last for each in origins if each.count)
    num_features, width = series[0].shape[1], beside[0].shape[1:]
    aligned = np.zeros((len(series), longest, num_features), np.float32)
    rest = np.zeros((len(series), num_origins, *width), np.float32)
    began = np.full(len(series), longest)
    for row, (values, each) in enumerate(zip(series, origins, strict=True)):
        if each.count:
            began[row] = longest - each.last
            aligned[row, began[row] :] = values[: each.last]
            # The origins of a series with fewer than others are the last ones.
            rest[row, num_origins - each.count :] = beside[row]
    places = np.maximum(longest - step * np.arange(num_origins)[::-1], 0)
    # How many series at once: by what they have at their origins, and the carries there.
    ahead = max(getattr(use, "horizon", 0), 256) * num_features
    size = max(1, LARGEST // (num_origins * max(ahead, _held(model, params))))
    found = []
    for rows in _blocks(np.arange(len(series)), size):
        valid = np.arange(longest)[None] >= began[rows][:, None]
        found.append(
            jax.tree.map(
                np.asarray,
                _from_states(use, model, params, aligned[rows], valid, rest[rows], jnp.asarray(places)),
            )
        )
    whole = _joined(found, len(series))
    return [jax.tree.map(partial(_last, row, each.count), whole) for row, each in enumerate(origins)]


def _last(row: int, count: int, leaf: np.ndarray) -> np.ndarray:
    """The last places of a row."""
    return leaf[row, leaf.shape[1] - count :]


@partial(jax.jit, static_argnums=(0, 1))
def _from_states(
    use: _Use,
    model: Model,
    params: Params,
    values: Float[Array, "batch time feature"],
    valid: Bool[Array, "batch time"],
    beside: Float[Array, "batch origin ..."],
    places: Int[Array, "origin"],
) -> _Rows:
    """Each row is read from its first valid value on; a carry is kept at each place, after so many steps."""
    start = model.init_carry(params, values.shape[0])
    kept = jax.tree.map(lambda leaf: jnp.zeros((places.shape[0], *leaf.shape), leaf.dtype), start)

    def step(state: tuple[Carry, Carry], now: tuple) -> tuple[tuple[Carry, Carry], None]:
        carry, kept = state
        number, x, is_valid = now

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(is_valid.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        carry = jax.tree.map(chosen, model.update(params, carry, x), carry)
        at = jnp.minimum(jnp.searchsorted(places, number + 1), places.shape[0] - 1)
        slot = jnp.where(places[at] == number + 1, at, places.shape[0])  # out of range: dropped
        kept = jax.tree.map(lambda every, one: every.at[slot].set(one, mode="drop"), kept, carry)
        return (carry, kept), None

    by_time = (jnp.arange(values.shape[1]), jnp.swapaxes(values, 0, 1), valid.T)
    (_, kept), _ = lax.scan(step, (start, kept), by_time)
    carries = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), kept)
    rows = values.shape[0] * places.shape[0]  # not -1, as there may be nothing beside
    found = use(model, params, carries, beside.reshape(rows, *beside.shape[2:]))
    dims = (values.shape[0], places.shape[0])
    return jax.tree.map(lambda leaf: leaf.reshape(*dims, *leaf.shape[1:]), found)

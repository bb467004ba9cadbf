"""Covariates: what is known of a time beside the values, such as where it lies in the day, week and year.

A model reads them behind the values of each step: what is known of the *next* time, then what was known only
so far, then what never changes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from lmseq.data.frequencies import future_times, is_dates, split_frequency
from lmseq.data.series_types import Series, Values
from lmseq.data.tables import quoted
from lmseq.types import Covariates

_CYCLES = {
    "hour": ("h", "min", "s", "ms", "us"),
    "weekday": ("D", "B"),
    "yearday": ("W", "MS", "ME", "QS", "QE"),
}


def calendar_names(frequency: str) -> tuple[str, ...]:
    """Names of the calendar's columns: hour of the day, day of the week, day of the year.

    Hours and less have all three, days the last two, weeks to quarters the last; years none.
    """
    known = split_frequency(frequency) if frequency else None
    base = known[1] if known is not None else "D"
    cycles = list(_CYCLES)
    start = next((place for place, units in enumerate(_CYCLES.values()) if base in units), len(cycles))
    return tuple(f"{cycle}_{part}" for cycle in cycles[start:] for part in ("sin", "cos"))


def calendar(times: Shaped[np.ndarray, "time"], frequency: str) -> Values:
    """Where T dates lie in the day, the week and the year, as sines and cosines, (T, C) float64.

    The columns are those of `calendar_names`.
    """
    us = times.astype("datetime64[us]")
    days, years = us.astype("datetime64[D]"), us.astype("datetime64[Y]")
    day = (us - days).astype(np.int64) / 86400e6
    length = (
        (years + np.timedelta64(1, "Y")).astype("datetime64[D]") - years.astype("datetime64[D]")
    ).astype(np.int64)
    shares = {
        "hour": day,
        "weekday": ((days.astype(np.int64) + 3) % 7) / 7,  # 1 January 1970 was a Thursday
        "yearday": ((days - years.astype("datetime64[D]")).astype(np.int64) + day) / length,
    }
    columns = [name.split("_") for name in calendar_names(frequency)]
    parts = {"sin": np.sin, "cos": np.cos}
    waves = [parts[part](2 * np.pi * shares[cycle]) for cycle, part in columns]
    return np.stack(waves, axis=1) if waves else np.zeros((len(times), 0))


def with_calendar(series: Series, frequency: str) -> Series:
    """The series with the calendar's columns beside what is known ahead; ValueError where it has no dates."""
    if not is_dates(series.times):
        raise ValueError(
            f"--calendar needs dates: {series.name} has none; name their column by --time_column"
        )
    given = series.known if series.known is not None else np.zeros((len(series.values), 0))
    taken = [name for name in calendar_names(frequency) if name in series.known_names]
    if taken:
        raise ValueError(f"--calendar makes a column {quoted(taken[0])}: rename the one of --known_columns")
    ahead = future_times(series.times, frequency, len(given) - len(series.times))
    waves = calendar(np.concatenate([series.times.astype("datetime64[us]"), ahead]), frequency)
    names = (*series.known_names, *calendar_names(frequency))
    return series._replace(known=np.concatenate([given, waves], axis=1), known_names=names)


def known_until(series: Series, frequency: str, end: int, *, has_calendar: bool) -> Values:
    """What is known ahead of the first `end` rows, (end, C): the calendar's columns go on by themselves.

    Raises ValueError where another covariate is not given for one of these times.
    """
    given, there = series.known, len(series.values)
    if given is None:
        return np.zeros((end, 0))
    if len(given) >= end:
        return given[:end]
    ahead = future_times(series.times, frequency, end - there)[len(given) - there :]
    num_own = given.shape[1] - (len(calendar_names(frequency)) if has_calendar else 0)
    if num_own:
        raise ValueError(lacking(series, series.known_names[0], ahead[0], len(given) - there + 1))
    return np.concatenate([given, calendar(ahead, frequency)])


def lacking(series: Series, column: str, time: Any, step: int) -> str:
    """What is said of a covariate that is not known of a time to come."""
    when = f"{step} step(s) after the end"
    if series.times is not None:
        when = f"at {str(time).removesuffix('T00:00:00.000000').removesuffix('.000000')}"
    return (
        f"series {quoted(series.name)}: the covariate {quoted(column)} is not known {when}: give it in a "
        "file by --future, or in rows of the series' file that have no value yet"
    )


# In the units of a model


class Units(NamedTuple):
    """Names of covariates, known, past, then static, and what their units are: z = (x - mean) / scale."""

    names: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    mean: Float[np.ndarray, "covariate"]
    scale: Float[np.ndarray, "covariate"]

    def facts(self) -> dict[str, Any]:
        """As plain lists, for a file."""
        kinds = dict(zip(Covariates._fields, map(list, self.names), strict=True))
        return kinds | {"mean": self.mean.tolist(), "scale": self.scale.tolist()}


def read_units(facts: dict[str, Any]) -> Units:
    """The inverse of `Units.facts`; ValueError for what is none."""
    try:
        names = tuple(tuple(facts[kind]) for kind in Covariates._fields)
        return Units(names, np.array(facts["mean"], np.float64), np.array(facts["scale"], np.float64))
    except (KeyError, TypeError, ValueError):
        raise ValueError("the facts of its covariates are damaged: restore them, or run again") from None


class Beside(NamedTuple):
    """Covariates of one series in the units of a model, float32.

    known: (T + F, C) of its T steps and of F that follow; past: (T, C); static: (C,).
    """

    known: Values
    past: Values
    static: Float[np.ndarray, "covariate"]

    @property
    def sizes(self) -> Covariates:
        """How many of each kind."""
        return Covariates(self.known.shape[1], self.past.shape[1], len(self.static))

    def ahead(
        self, origins: Int[np.ndarray, "origin"], horizon: int
    ) -> Float[np.ndarray, "origin horizon covariate"]:
        """What stands behind the element of each origin and of the K - 1 that follow, (O, K, C).

        An origin t has seen t values. What was known only so far is repeated, and so is what is known ahead
        beyond the last row.
        """
        places = np.minimum(origins[:, None] + np.arange(horizon)[None], len(self.known) - 1)
        dims = places.shape
        past = np.broadcast_to(self.past[origins - 1][:, None], (*dims, self.past.shape[1]))
        static = np.broadcast_to(self.static[None, None], (*dims, len(self.static)))
        return np.concatenate([self.known[places], past, static], axis=-1)

    def rows(self) -> Float[np.ndarray, "time covariate"]:
        """What stands behind each of T elements, (T, C)."""
        return self.ahead(1 + np.arange(len(self.past)), 1)[:, 0]


def fit_units(series: Sequence[Series], ends: Sequence[int]) -> Units:
    """The units of the covariates of a panel: mean and deviation over the training parts, of those lengths.

    What never changes stays as it is if it is 0 or 1; a column that is constant is only made 0. Raises
    ValueError for one that is too large to be squared.
    """
    names = (series[0].known_names, series[0].past_names, series[0].static_names)
    parts = [_parts(each) for each in series]
    dynamic = [
        np.concatenate([known[:end], past[:end]], axis=1)
        for (known, past, _), end in zip(parts, ends, strict=True)
    ]
    columns = [*np.concatenate(dynamic).T, *np.stack([static for *_, static in parts]).T]
    mean, scale = np.zeros(len(columns)), np.ones(len(columns))
    for place, (name, column) in enumerate(zip(sum(names, ()), columns, strict=True)):
        largest = np.abs(column).max()
        if largest > LARGEST:
            raise ValueError(f"column {quoted(name)} is too large to be squared: give it in another unit")
        if name not in names[2] or not np.isin(column, (0.0, 1.0)).all():
            mean[place] = column.mean()
            spread = column.std()
            scale[place] = spread if spread > 1e-12 * largest else 1.0
    return Units(names, mean, scale)


LARGEST = 1e30  # of covariates: float32 must hold them


def in_units(series: Series, units: Units) -> Beside:
    """The covariates of a series in these units; ValueError for one that is not there or much too large."""
    given = (series.known_names, series.past_names, series.static_names)
    found, first = [], 0
    for kind, wanted, names, values in zip(
        Covariates._fields, units.names, given, _parts(series), strict=True
    ):
        unknown = [name for name in names if name not in wanted]
        # A text that a series does not have is 0.
        lack = [name for name in wanted if name not in names and not ("=" in name and kind == "static")]
        if unknown or lack:
            raise ValueError(
                f"series {quoted(series.name)} has the {kind} covariates {', '.join(names) or 'none'}: "
                f"expected {', '.join(wanted) or 'none'}"
            )
        columns = [
            values[..., names.index(name)] if name in names else 0.0 * values[..., 0] for name in wanted
        ]
        chosen = slice(first, first + len(wanted))
        stacked = np.stack(columns, axis=-1) if columns else values[..., :0]
        found.append((stacked - units.mean[chosen]) / units.scale[chosen])
        first += len(wanted)
        if (np.abs(found[-1]) > LARGEST).any():
            raise ValueError(
                f"series {quoted(series.name)}: a covariate is too large: expected up to {LARGEST:g}"
            )
    return Beside(*(each.astype(np.float32) for each in found))


def _parts(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is known, past and static, of no columns where there is none."""
    nothing = np.zeros((len(series.values), 0))
    return (
        nothing if series.known is None else series.known,
        nothing if series.past is None else series.past,
        np.zeros(0) if series.static is None else series.static,
    )

"""Covariates: what is known of a time beside the values, such as where it lies in the day, week and year."""

import numpy as np
from jaxtyping import Shaped

from lmseq.data.frequencies import future_times, is_dates, split_frequency
from lmseq.data.series_types import Series, Values
from lmseq.data.tables import quoted

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
    ahead = future_times(series.times, frequency, len(given) - len(series.times))
    waves = calendar(np.concatenate([series.times.astype("datetime64[us]"), ahead]), frequency)
    names = (*series.known_names, *calendar_names(frequency))
    return series._replace(known=np.concatenate([given, waves], axis=1), known_names=names)


def known_until(series: Series, frequency: str, horizon: int) -> Values:
    """What is known ahead of T + `horizon` rows, (T + horizon, C): the calendar goes on by itself.

    Raises ValueError where another covariate is not given for one of these dates.
    """
    needed, given = len(series.values) + horizon, series.known
    if given is None:
        return np.zeros((needed, 0))
    if len(given) >= needed:
        return given[:needed]
    names = calendar_names(frequency)
    own = [name for name in series.known_names if name not in names]
    ahead = future_times(series.times, frequency, horizon)
    if own:
        there = len(given) - len(series.values)
        raise ValueError(
            f"series {quoted(series.name)}: the covariate {quoted(own[0])} is not known at {ahead[there]}: "
            f"expected {horizon} rows after the last value with what is known ahead, got {there}"
        )
    return np.concatenate([given[: len(series.values)], calendar(ahead, frequency)])

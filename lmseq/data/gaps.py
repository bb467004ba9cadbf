"""Rows of a file as a regular series: in order, one a time, no time and no value that lacks."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped

from lmseq.data.frequencies import future_times, is_dates, regular_steps, step_frequency
from lmseq.data.series_types import Series, Values
from lmseq.data.tables import quoted
from lmseq.data.times import check_times

Missing = Literal["error", "previous", "interpolate"]
MOST_GAPS = 10**6  # rows that a repair adds to one series


class Roles(NamedTuple):
    """What columns are for: D values, covariates known ahead and known so far, and the times."""

    values: tuple[str, ...]
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    time: str = ""


class Rows(NamedTuple):
    """One series as a file has it: R rows of values, then known, then past covariates; NaN for none."""

    name: str
    cells: Values
    times: Shaped[np.ndarray, "time"] | None
    rows: Sequence[int]


def make_series(raw: Rows, roles: Roles, missing: Missing, repair: bool = False) -> Series:
    """A series of rows, without rows at the end that have covariates known ahead and no value yet.

    Raises ValueError for times that are not regular, unless they can be repaired and are to be; for missing
    values as `fill_missing` does; and for covariates of the time to come that lack.
    """
    notes: tuple[str, ...] = ()
    if repair and raw.times is not None:
        raw, notes = repaired(raw, roles.time)
    if raw.times is not None:
        check_times(raw.times, roles.time, raw.rows)
    d, k = len(roles.values), len(roles.known)
    values, known, past = raw.cells[:, :d], raw.cells[:, d : d + k], raw.cells[:, d + k :]
    size = len(values)
    if k:
        given = np.flatnonzero(~np.isnan(values).all(axis=1))
        size = int(given[-1]) + 1 if given.size else 0
        if not size:
            raise ValueError("there is no value, only covariates: expected values before the time to come")
    future = np.isnan(known[size:])
    if future.any():
        row, column = np.argwhere(future)[0]
        raise ValueError(
            f"row {raw.rows[size + row]}, column {quoted(roles.known[column])}: expected what is known of "
            "the time to come, got an empty cell: fill it in, or take the row out"
        )
    rows = raw.rows[:size]
    filled = fill_missing(known[:size], missing, roles.known, rows) if k else known
    return Series(
        raw.name,
        roles.values,
        fill_missing(values[:size], missing, roles.values, rows),
        filled=np.isnan(values[:size]),
        times=None if raw.times is None else raw.times[:size],
        rows=rows,
        notes=notes,
        known=np.concatenate([filled, known[size:]]) if k else None,
        known_names=roles.known,
        past=fill_missing(past[:size], missing, roles.past, rows) if roles.past else None,
        past_names=roles.past,
    )


# What lacks


def fill_missing(
    values: Values, missing: Missing, columns: tuple[str, ...], rows: Sequence[int] | None = None
) -> Values:
    """NaN replaced by the value before, or along the line between its neighbours, or refused.

    Raises ValueError for a NaN under `error`, for one with no value before it (previous) or on either
    side (interpolate), and for a column of nothing else. `rows` are the numbers by which errors name the
    rows, 1 ... T unless given.
    """
    rows = range(1, len(values) + 1) if rows is None else rows
    holes = np.isnan(values)
    if not holes.any():
        return values
    row, column = np.argwhere(holes)[0]
    where = f"row {rows[row]}, column {quoted(columns[column])}"
    if missing == "error":
        raise ValueError(
            f"the series has {holes.sum()} missing value(s), the first in {where}: "
            "choose --missing=previous or --missing=interpolate, or mend the file"
        )
    filled, steps = values.copy(), np.arange(len(values))
    for d, name in enumerate(columns):
        known = steps[~holes[:, d]]
        if not known.size:
            raise ValueError(f"column {quoted(name)} has no value at all: leave it out")
        first, last = known[[0, -1]]
        if first > 0 or (missing == "interpolate" and last < len(values) - 1):
            place, end = (0, "first") if first > 0 else (len(values) - 1, "last")
            raise ValueError(
                f"column {quoted(name)} has no value in row {rows[place]}, its {end}: {missing} has nothing "
                "to fill it from; cut such rows off"
            )
        if missing == "previous":
            last_known = np.maximum.accumulate(np.where(holes[:, d], 0, steps))
            filled[:, d] = values[last_known, d]
        else:
            filled[:, d] = np.interp(steps, known, values[known, d])
    return filled


# Repairs


def repaired(raw: Rows, column: str) -> tuple[Rows, tuple[str, ...]]:
    """Rows in order of time; the mean of those of one time; rows of nothing where times lack.

    With what was done, a line each. Raises ValueError where times are of no regular steps.
    """
    notes = []
    if (np.diff(raw.times).astype(np.float64) < 0).any():
        notes.append("repaired: rows are sorted by time")
    times, group = np.unique(raw.times, return_inverse=True)
    first = np.zeros(len(times), np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]
    rows, cells = [raw.rows[place] for place in first], raw.cells[first]
    if len(times) < len(raw.times):
        known = ~np.isnan(raw.cells)
        counts, sums = (np.zeros((len(times), raw.cells.shape[1])) for _ in range(2))
        np.add.at(counts, group, known)
        np.add.at(sums, group, np.where(known, raw.cells, 0.0) / np.maximum(counts[group], 1))
        cells = np.where(counts > 0, sums, np.nan)
        notes.append(f"repaired: {len(raw.times) - len(times)} row(s) of a time that stood before: the mean")
    if len(times) > 2 and not regular_steps(times)[1].all():
        grid = _grid(times, column)
        at = np.searchsorted(grid, times)
        whole = np.full((len(grid), cells.shape[1]), np.nan)
        whole[at] = cells
        before = np.searchsorted(times, grid, side="right") - 1
        notes.append(f"repaired: {len(grid) - len(times)} time(s) that lacked are rows of missing values")
        times, cells, rows = grid, whole, [rows[place] for place in before]
    return Rows(raw.name, cells, times, rows), tuple(notes)


def _grid(times: Shaped[np.ndarray, "time"], column: str) -> Shaped[np.ndarray, "steps"]:
    """All times from the first to the last by the usual step; ValueError where some of them lie between."""
    steps = np.diff(times).astype(np.float64)
    sizes, counts = np.unique(steps, return_counts=True)
    usual = sizes[np.argmax(counts)]
    size = int(min(np.ceil((times[-1] - times[0]).astype(np.float64) / usual) + 1, MOST_GAPS + len(times)))
    if is_dates(times):
        grid = np.append(times[:1], future_times(times[:1], step_frequency(times), size))
        grid = grid[grid <= times[-1]]
        places = np.minimum(np.searchsorted(grid, times), len(grid) - 1)
        off = grid[places] != times
    else:
        places = np.rint((times - times[0]) / usual).astype(np.int64)
        grid = times[0] + usual * np.arange(min(places[-1] + 1, size))
        off = (np.abs(times[0] + usual * places - times) > 1e-6 * usual) | (places >= len(grid))
        grid[places[~off]] = times[~off]
    if off.any():
        raise ValueError(
            f"column {quoted(column)}: the time {times[int(np.argmax(off))]} is not a whole number of usual "
            "steps after the first: such a file is not repaired; make it regular, or read the values by "
            "--columns without --time_column"
        )
    return grid

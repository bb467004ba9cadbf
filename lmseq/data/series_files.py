"""Series that others measured: CSV files, and the public-domain ones that statsmodels ships."""

import csv
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from lmseq.data.series_types import Series, Values

Missing = Literal["error", "previous", "interpolate"]

# Bundled with statsmodels; those that it marks as public domain.
_COLUMNS = {"sunspots": "SUNACTIVITY", "co2": "co2", "nile": "volume"}
_PERIODS = {"sunspots": 11, "co2": 52, "nile": 0, "elnino": 12}


def bundled(name: str, missing: Missing = "error") -> Series:
    """sunspots (yearly), co2 (weekly), nile (yearly) or elnino (monthly), as statsmodels ships them.

    Raises ValueError when statsmodels is not installed, and for missing values (co2 has some) unless
    `missing` says what to do.
    """
    try:
        from statsmodels.datasets import co2, elnino, nile, sunspots
    except ImportError:
        raise ValueError(
            f"the series {name} comes with statsmodels, which is not installed: pip install statsmodels"
        ) from None
    table = {"sunspots": sunspots, "co2": co2, "nile": nile, "elnino": elnino}[name].load().data
    if name == "elnino":  # a row a year, a column a month
        values = np.asarray(table)[:, 1:].astype(np.float64).reshape(-1)
        years = np.asarray(table["YEAR"]).astype(int)
        times = (_years(years)[:, None].astype("datetime64[M]") + np.arange(12)).reshape(-1)
    else:
        values = np.asarray(table[_COLUMNS[name]], np.float64)
        column = {"sunspots": "YEAR", "nile": "year"}.get(name)
        times = np.asarray(table.index) if column is None else _years(np.asarray(table[column]).astype(int))
    values = values[:, None]
    whole = fill_missing(values, missing, (name,))
    return Series(name, (name,), whole, _PERIODS[name], filled=np.isnan(values), times=times)


def _years(years: Int[np.ndarray, "time"]) -> Shaped[np.ndarray, "time"]:
    """datetime64 in years."""
    return (years - 1970).astype("datetime64[Y]")


# Files


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
    where = f"row {rows[row]}, column {columns[column]!r}"
    if missing == "error":
        raise ValueError(
            f"the series has {holes.sum()} missing value(s), the first in {where}: "
            "choose --missing=previous or --missing=interpolate, or mend the file"
        )
    filled, steps = values.copy(), np.arange(len(values))
    for d, name in enumerate(columns):
        known = steps[~holes[:, d]]
        ends = known[[0, -1]] if known.size else np.array([len(values), -1])
        if ends[0] > 0 or (missing == "interpolate" and ends[1] < len(values) - 1):
            at = 0 if ends[0] > 0 else len(values) - 1
            raise ValueError(
                f"column {name!r} has no value in row {rows[at]}, at its end: {missing} has nothing to "
                "fill it from; cut such rows off"
            )
        if missing == "previous":
            last_known = np.maximum.accumulate(np.where(holes[:, d], 0, steps))
            filled[:, d] = values[last_known, d]
        else:
            filled[:, d] = np.interp(steps, known, values[known, d])
    return filled


_BLANK = {"", "na", "n/a", "nan", "null", "none", "."}


def _number(cell: str, row: int, column: str) -> float:
    """The cell as a finite number, NaN for a missing one; ValueError for anything else."""
    text = cell.strip()
    if text.lower() in _BLANK:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"row {row}, column {column!r}: expected a number, got {text[:40]!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"row {row}, column {column!r}: expected a finite number, got {text[:40]!r}")
    return value


def _time(cell: str, row: int, column: str) -> float:
    """A time as a number: as it is, or the seconds of an ISO date."""
    text = cell.strip()
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"row {row}, column {column!r}: expected a number or an ISO date as the time, got {text[:40]!r}"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _as_dates(cells: Sequence[str], seconds: Float[np.ndarray, "time"]) -> Shaped[np.ndarray, "time"]:
    """datetime64 to the millisecond of ISO dates; of plain numbers, the numbers."""
    try:
        float(cells[0])
    except ValueError:
        return np.round(1000 * seconds).astype(np.int64).astype("datetime64[ms]")
    return seconds


def check_times(times: Float[np.ndarray, "time"], column: str, rows: Sequence[int]) -> None:
    """Raise ValueError unless times increase by steps of much the same size (months and leap years pass)."""
    if not np.isfinite(times).all():
        row = rows[int(np.argmin(np.isfinite(times)))]
        raise ValueError(f"row {row}, column {column!r}: expected a finite time")
    steps = np.diff(times)
    if not steps.size:
        return
    if steps.min() <= 0:
        row = rows[int(np.argmax(steps <= 0)) + 1]
        raise ValueError(
            f"row {row}, column {column!r}: the time is not later than that of the row before: sort the file"
        )
    usual = float(np.median(steps))
    if steps.max() > 1.5 * usual:
        at = int(np.argmax(steps > 1.5 * usual))
        raise ValueError(
            f"row {rows[at + 1]}, column {column!r}: {steps[at] / usual:.3g} usual steps after "
            "the row before: add the rows (empty cells will do, with --missing), or leave out --time_column"
        )


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file with their line numbers, the header first; ValueError where there are none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start} cannot be read") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: expected a header and a row for each time")
    head = text.splitlines()[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=head.count), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, row {reader.line_num}: {error}") from None
    # Blank lines are passed over; but within a single column they are missing values.
    while rows and not any(cell.strip() for cell in rows[-1][1]):
        rows.pop()
    if rows and len(rows[0][1]) == 1:
        rows = [(line, row or [""]) for line, row in rows]
    else:
        rows = [(line, row) for line, row in rows if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise ValueError(f"{path}: expected a header and a row for each time, got {len(rows)} row(s)")
    width = len(rows[0][1])
    for line, row in rows[1:]:
        if len(row) != width:
            raise ValueError(f"{path}, row {line}: the header has {width} cells, this row {len(row)}")
    return rows


def read_csv(
    path: Path, columns: tuple[str, ...] = (), time_column: str = "", missing: Missing = "error"
) -> Series:
    """The named columns of a CSV file with a header (comma, semicolon or tab); all but the time if none is.

    Rows are named as a text editor counts them, the header being row 1. Raises ValueError, saying where,
    for an unknown column, a cell that is no finite number, a time that does not increase or leaves a gap,
    and missing values unless `missing` says what to do with them.
    """
    (_, names), *rows = _read_rows(path)
    header = [name.strip() for name in names]
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: the header names a column twice: {', '.join(header)}")
    chosen = columns or tuple(name for name in header if name != time_column)
    for name in (*chosen, *((time_column,) if time_column else ())):
        if name not in header:
            raise ValueError(f"{path} has no column {name!r}: it has {', '.join(header)}")
    if not chosen:
        raise ValueError(f"{path} has no column beside the time {time_column!r}")
    lines, places = [line for line, _ in rows], [header.index(name) for name in chosen]
    values = np.array([[_number(row[i], line, header[i]) for i in places] for line, row in rows])
    times = None
    if time_column:
        at = header.index(time_column)
        seconds = np.array([_time(row[at], line, time_column) for line, row in rows])
        check_times(seconds, time_column, lines)
        times = _as_dates([row[at] for _, row in rows], seconds)
    whole = fill_missing(values, missing, chosen, lines)
    return Series(path.stem, chosen, whole, filled=np.isnan(values), times=times)

"""Times of a table: numbers or dates, in order, by steps of much the same size."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped

from lmseq.data.tables import Table, in_bulk, is_date, is_dated, is_number, numbers, quoted

FORMS = "such as 12, 2024-01-31, 2024-01, 20240131 or 2024-01-31T12:00"
_COMPACT = {8: "%Y%m%d", 6: "%Y%m"}  # by the number of digits


def time_column(table: Table) -> str:
    """The column that obviously holds the times; empty where none does.

    It is the only one of dates, or the first of the table where that is one. There, days as 20240131 are
    dates as well.
    """
    dated = [name for name, cells in table.columns.items() if is_dated(cells)]
    first, cells = next(iter(table.columns.items()))
    if len(table.columns) > 1 and len(cells[0]) == 8 and _compact(cells) is not None:
        dated.insert(0, first)
    return dated[0] if len(dated) == 1 or first in dated else ""


def read_times(table: Table, name: str, mark: str = ".") -> Shaped[np.ndarray, "time"]:
    """A column of times: datetime64 in microseconds (UTC) where they are dates, else float64.

    Days as 20240131 and months as 202401 are dates where all cells are. Raises ValueError for a cell that is
    no time, or not of the kind that the first one is, and as `check_times` does.
    """
    cells = table.columns[name]
    times = _compact(cells)
    if times is None:
        times = _numbers(table, name, mark) if is_number(cells[0], mark) else _dates(table, name)
    check_times(times, name, table.rows)
    return times


def _compact(cells: Sequence[str]) -> Shaped[np.ndarray, "time"] | None:
    """Days or months without marks between, datetime64; None unless all are of 1500 to 2299."""
    length = len(cells[0])
    whole = all(len(cell) == length and cell.isascii() and cell.isdigit() for cell in cells)
    if length not in _COMPACT or not whole or not all("1500" <= cell < "23" for cell in cells):
        return None
    import pandas

    found = pandas.to_datetime(list(cells), format=_COMPACT[length], errors="coerce")
    return None if found.hasnans else found.to_numpy("datetime64[us]")


def _dates(table: Table, name: str) -> Shaped[np.ndarray, "time"]:
    """ISO dates as datetime64 in UTC."""
    import pandas

    cells = [cell if is_date(cell) else None for cell in table.columns[name]]  # `now` is no date of a table
    found = pandas.to_datetime(cells, format="ISO8601", utc=True, errors="coerce")
    if found.hasnans:
        row = int(np.argmax(found.isna()))
        cell = table.columns[name][row]
        raise ValueError(
            f"row {table.rows[row]}, column {quoted(name)}: expected a time, {FORMS}, got {quoted(cell)}"
        )
    return found.tz_localize(None).to_numpy("datetime64[us]")


def _numbers(table: Table, name: str, mark: str) -> Float[np.ndarray, "time"]:
    """Numbers, none of them missing."""
    values = in_bulk(table.columns[name], mark)
    is_whole = values is not None and not np.isnan(values).any()
    for row, cell in () if is_whole else zip(table.rows, table.columns[name], strict=True):
        if not is_number(cell, mark):
            raise ValueError(
                f"row {row}, column {quoted(name)}: expected a number, as the first time, got {quoted(cell)}"
            )
    return numbers(table, name, mark)


# Order


def check_times(times: Shaped[np.ndarray, "time"], column: str, rows: Sequence[int]) -> None:
    """Raise ValueError unless times (T,), numbers or datetime64, increase by steps of much the same size.

    Each step is from half to one and a half of the usual one, their median, as are months, quarters and leap
    years; or it is so when only Monday to Friday are counted, of days that all are. `rows` are the numbers
    by which errors name the rows.
    """
    where = f"column {quoted(column)}"
    is_dated = np.issubdtype(times.dtype, np.datetime64)
    steps = np.diff(times).astype(np.float64)
    if not steps.size:
        return
    if steps.min() <= 0:
        order = np.argsort(times, kind="stable")
        same = np.flatnonzero(times[order][1:] == times[order][:-1])
        if same.size:
            first, second = order[same[0]], order[same[0] + 1]
            raise ValueError(
                f"{where}: rows {rows[first]} and {rows[second]} have the same time: expected one row a time "
                "(of clocks that are put back, times in UTC)"
            )
        row = rows[int(np.argmax(steps <= 0)) + 1]
        raise ValueError(f"row {row}, {where}: the time is earlier than in the row before: sort the file")
    regular = _regular(steps)
    if not regular.all() and is_dated:
        days = times.astype("datetime64[D]")
        if (days == times).all() and np.is_busday(days).all():
            steps = np.busday_count(days[:-1], days[1:]).astype(np.float64)
            regular = _regular(steps)
    if not regular.all():
        at = int(np.argmin(regular))
        raise ValueError(
            f"row {rows[at + 1]}, {where}: {steps[at] / np.median(steps):.3g} usual steps after the row "
            "before: add the rows that lack (empty cells will do, with --missing), take out those between, "
            "or read the values by --columns without --time_column"
        )


def _regular(steps: Float[np.ndarray, "time"]) -> Bool[np.ndarray, "time"]:
    usual = np.median(steps)
    return (0.5 * usual <= steps) & (steps <= 1.5 * usual)


# What comes next


def future_times(
    times: Shaped[np.ndarray, "time"] | None, frequency: str, horizon: int
) -> Shaped[np.ndarray, "horizon"]:
    """The times of the `horizon` steps that follow.

    Dates go on by the frequency, a pandas offset alias, as datetime64: business days skip weekends, months go
    by the calendar. Plain numbers go on by their usual step, as float64. Where there are no times, steps are
    counted from 0 and go on from the number of them that `frequency` cannot tell: 0, 1, ... is returned.
    """
    if times is None:
        return np.arange(horizon, dtype=np.float64)
    if not np.issubdtype(times.dtype, np.datetime64):
        step = np.median(np.diff(times)) if len(times) > 1 else 1.0
        return times[-1] + step * np.arange(1, horizon + 1)
    import pandas

    return pandas.date_range(times[-1], periods=horizon + 1, freq=frequency)[1:].to_numpy("datetime64[us]")

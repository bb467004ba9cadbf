"""Times of a table: numbers or dates, in order, by steps of much the same size."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from lmseq.data.dates import FORMS, read_dates
from lmseq.data.frequencies import regular_steps
from lmseq.data.tables import Table, in_bulk, is_dated, is_number, numbers, quoted

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
    times = parse_times(table, name, mark)
    check_times(times, name, table.rows)
    return times


def parse_times(table: Table, name: str, mark: str = ".") -> Shaped[np.ndarray, "time"]:
    """The same in whatever order and steps they are."""
    cells = table.columns[name]
    times = _compact(cells)
    if times is None:
        times = _numbers(table, name, mark) if is_number(cells[0], mark) else _dates(table, name)
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
    """Dates of any form as datetime64 in UTC."""
    cells = table.columns[name]
    try:
        found = read_dates(cells)
    except ValueError as error:
        raise ValueError(f"column {quoted(name)}: {error}") from None
    if np.isnat(found).any():
        at = int(np.argmax(np.isnat(found)))
        where = f"row {table.rows[at]}, column {quoted(name)}"
        raise ValueError(f"{where}: expected a time, {FORMS}, got {quoted(cells[at])}")
    return found


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
                "(of clocks that are put back, times in UTC), or say --repair for the mean of such rows"
            )
        row = rows[int(np.argmax(steps <= 0)) + 1]
        raise ValueError(
            f"row {row}, {where}: the time is earlier than in the row before: sort the file, or say --repair"
        )
    parts, regular = regular_steps(times)
    if not regular.all():
        at = int(np.argmin(regular))
        raise ValueError(
            f"row {rows[at + 1]}, {where}: {parts[at]:.3g} usual steps after the row before: "
            "add the rows that lack (empty cells will do, with --missing), or say --repair, take out those "
            "between, or read the values by --columns without --time_column"
        )

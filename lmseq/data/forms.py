"""Forms of files with several series: rows of a long form, and the wide form, in which a row is a series.

Which form a file has is found where it is plain. A table (a row a time) is what is left.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmseq.data.gaps import Missing, Rows, fill_missing
from lmseq.data.series_types import Series
from lmseq.data.tables import (
    Decimal,
    Table,
    decimal_mark,
    in_bulk,
    is_blank,
    is_date,
    is_dated,
    is_number,
    is_numeric,
    numbers,
    quoted,
)

Columns = list[list[str]]  # of cells

# The wide form


def is_wide(columns: Columns) -> bool:
    """Whether a file plainly is wide: names that count, as V1, V2, ..., above names of series and numbers."""
    counted = [re.fullmatch(r"(.*?)([0-9]+)", column[0]) for column in columns]
    if len(columns) < 3 or len(columns[0]) < 2 or None in counted:
        return False
    stems, places = {named[1] for named in counted}, [int(named[2]) for named in counted]
    counts = places == list(range(places[0], places[0] + len(places)))
    return len(stems) == 1 and stems != {""} and counts and _holds_series(columns, 1) is not None


def may_be_wide(columns: Columns) -> bool:
    """Whether rows are named, hold numbers, and some end in empty cells, as shorter series of a wide file."""
    ends = _holds_series(columns, 1) if len(columns) > 2 and len(columns[0]) > 2 else None
    return ends is not None and min(ends) < len(columns) - 1


def _holds_series(columns: Columns, start: int) -> list[int] | None:
    """How many numbers each row has, all before its empty cells; None where rows are no named series."""
    names = columns[0][start:]
    is_named = len(set(names)) == len(names) and not any(
        is_blank(name) or is_date(name) or is_number(name, ".") or is_number(name, ",") for name in names
    )
    cells = [cell for column in columns[1:] for cell in column[start:]]
    if not is_named or (in_bulk(cells) is None and in_bulk(cells, ",") is None):
        return None
    known = np.array([cell != "" for cell in cells]).reshape(len(columns) - 1, len(names))
    ends = known.sum(axis=0)
    return ends.tolist() if (known == (np.arange(len(known))[:, None] < ends)).all() and ends.all() else None


def read_wide(
    path: Path, lines: list[int], columns: Columns, missing: Missing, decimal: Decimal
) -> tuple[Series, ...]:
    """A series a row, named by its first cell; empty cells at its end are none of it.

    A first row with other cells than numbers has names of columns. Raises ValueError for a name that lacks or
    stands twice, a cell that is no number, and missing values as `fill_missing` does.
    """
    if len(columns) < 2:
        raise ValueError(f"{path} has one column: expected a name and values in each row of the wide form")
    first = [column[0] for column in columns[1:]]
    is_data = all(is_blank(cell) or is_number(cell, ".") or is_number(cell, ",") for cell in first)
    if is_data and len(first) > 2 and _counts(first):
        raise ValueError(
            f"{path}: its first row counts, {first[0]}, {first[1]}, ...: it may have names of columns, or be "
            "a series; call the columns V1, V2, ..."
        )
    start = 0 if is_data else 1
    names, rows = columns[0][start:], lines[start:]
    _check_names(path, names, rows)
    values = _numbers([column[start:] for column in columns[1:]], rows, decimal)
    series = []
    for name, row, line in zip(names, values.T, rows, strict=True):
        known = np.flatnonzero(~np.isnan(row))
        if not known.size:
            raise ValueError(f"{path}, row {line}: series {quoted(name)} has no value: take the row out")
        part = row[: known[-1] + 1, None]
        if missing == "error" and len(known) < len(part):
            raise ValueError(
                f"{path}, row {line}: series {quoted(name)} has {len(part) - len(known)} missing value(s) "
                "before its end: choose --missing=previous or --missing=interpolate, or mend the file"
            )
        whole = fill_missing(part, missing, (name,))
        series.append(Series(name, ("value",), whole, filled=np.isnan(part)))
    return tuple(series)


def _counts(cells: Sequence[str]) -> bool:
    values = in_bulk(cells)
    steps = np.diff(values) if values is not None and not np.isnan(values).any() else np.zeros(1)
    return bool(steps[0] != 0 and (steps == steps[0]).all())


def _check_names(path: Path, names: Sequence[str], rows: Sequence[int]) -> None:
    """ValueError for a series without a name, and for two of one name."""
    seen: dict[str, int] = {}
    for name, row in zip(names, rows, strict=True):
        if is_blank(name):
            raise ValueError(
                f"{path}, row {row}: expected the name of a series in the first column, got none"
            )
        if name in seen:
            raise ValueError(
                f"{path}: rows {seen[name]} and {row} are both called {quoted(name)}: rename one"
            )
        seen[name] = row
    if not names:
        raise ValueError(
            f"{path} has names of columns and nothing below them: expected a row for each series"
        )


def _numbers(columns: Columns, rows: list[int], decimal: Decimal) -> Float[np.ndarray, "time _"]:
    """All cells as numbers, NaN where one is blank."""
    flat = [cell for column in columns for cell in column]
    values = in_bulk(flat) if decimal != "comma" else None
    if values is None:
        mark = decimal_mark([flat], decimal)
        table = Table({str(place): column for place, column in enumerate(columns, 2)}, rows, ())
        values = np.concatenate([numbers(table, name, mark) for name in table.columns])
    elif np.isinf(values).any():
        raise ValueError(f"expected finite numbers, got {quoted(flat[int(np.argmax(np.isinf(values)))])}")
    return values.reshape(len(columns), len(rows))


# The long form


class Key(NamedTuple):
    """The columns that tell series and times of a long form; empty: none does."""

    id: str = ""
    time: str = ""


def find_key(
    path: Path, table: Table, id_column: str = "", time_column: str = "", beside: Sequence[str] = ()
) -> Key:
    """The columns by which a table is a long form: those named, `unique_id`, or where it plainly is one.

    Times recur, and no time does within a series. An id is a column of texts that recur; of several, the one
    with fewest. Where there are no dates, times are whole numbers that go on by one step in each series;
    where no texts tell series apart, ids may be whole numbers. `beside` holds values and covariates. Raises
    ValueError where several columns may be the one sought.
    """
    rest = {name: cells for name, cells in table.columns.items() if name not in beside}
    given = id_column or ("unique_id" if _recurs(rest.get("unique_id", [])) else "")
    dated = [name for name, cells in rest.items() if name != given and is_dated(cells)]
    dated = [time_column] if time_column else dated
    recurring = [name for name in dated if len(set(rest[name])) < len(table.rows)]
    if not given and (len(recurring) < len(dated)):
        return Key()
    whole = [name for name, cells in rest.items() if _is_whole(cells)]
    if given:
        if id_column and id_column not in table.columns:
            return Key(id_column, time_column)
        ids = table.columns[given]
        counted = [name for name in whole if name != given and _tells(ids, rest[name], steady=True)]
        is_all = not beside and len(counted) == sum(is_numeric(cells) for cells in rest.values())
        named = "ds" if "ds" in (dated or whole) else ""
        return Key(given, named or _one(path, dated or ([] if is_all else counted), "times", "--time_column"))
    texts = [name for name, cells in rest.items() if not is_numeric(cells) and not is_dated(cells)]
    keys = []
    for time in dated or whole:
        times = rest[time]
        if 3 * len(set(times)) > 2 * len(times):  # a few times that recur are faults of a table
            continue
        told = [name for name in texts if _tells(rest[name], times, steady=time not in dated)]
        if not told and time in dated:
            told = [name for name in whole if _tells_well(rest[name], times)]
            told = [_one(path, told, "series", "--id_column")] if told else []
        if told:
            keys.append(Key(min(told, key=lambda name: len(set(rest[name]))), time))
    time = _one(path, [key.time for key in keys], "times", "--time_column")
    return next((key for key in keys if key.time == time), Key())


def _one(path: Path, names: Sequence[str], what: str, flag: str) -> str:
    """The only one, or none; ValueError where there are several."""
    if len(names) > 1:
        raise ValueError(
            f"{path}: {what} may be in column {quoted(names[0])} or {quoted(names[1])}: say {flag}"
        )
    return names[0] if names else ""


def _is_whole(cells: Sequence[str]) -> bool:
    values = in_bulk(cells)
    return values is not None and bool((np.isfinite(values) & (values == np.rint(values))).all())


def _recurs(cells: Sequence[str]) -> bool:
    return 1 < len(set(cells)) < len(cells) and not any(map(is_blank, cells))


def _tells(ids: Sequence[str], times: Sequence[str], steady: bool) -> bool:
    """Whether no time recurs within an id, but for few; steady: and numbers go on by one step in each."""
    if not _recurs(ids):
        return False
    pairs = len(set(zip(ids, times, strict=True)))
    if steady:
        at = in_bulk(times)
        parts = [np.diff(np.sort(at[group])) for group in groups(ids).values()]
        steps = np.concatenate(parts)
        return pairs == len(ids) and steps.size > 0 and bool((steps == steps[0]).all())
    return (len(ids) - pairs) * 4 <= len(ids) - len(set(times))


def _tells_well(ids: Sequence[str], times: Sequence[str]) -> bool:
    """The same for numbers, which may be values as well: no time recurs within any id, and each id does."""
    counts = Counter(ids)
    return min(counts.values()) > 1 < len(counts) and len(set(zip(ids, times, strict=True))) == len(ids)


def groups(ids: Sequence[str]) -> dict[str, Int[np.ndarray, "place"]]:
    """The places of each id, in the order in which ids come first."""
    names = dict.fromkeys(ids)
    codes = np.fromiter(map({name: code for code, name in enumerate(names)}.__getitem__, ids), np.int64)
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return dict(zip(names, parts, strict=True))


def split_rows(raw: Rows, ids: Sequence[str]) -> dict[str, Rows]:
    """The rows of each series, by its id."""
    return {
        name: Rows(
            name, raw.cells[at], None if raw.times is None else raw.times[at], [raw.rows[k] for k in at]
        )
        for name, at in groups(ids).items()
    }

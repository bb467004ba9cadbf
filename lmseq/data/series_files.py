"""Series that others measured: tables in files, and the public-domain ones that statsmodels ships."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from lmseq.data import times
from lmseq.data.gaps import Missing, Roles, Rows, fill_missing, make_series
from lmseq.data.series_types import Series
from lmseq.data.tables import (
    Decimal,
    Table,
    decimal_mark,
    is_blank,
    is_numeric,
    numbers,
    quoted,
    read_table,
)
from lmseq.packing import PACKINGS

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
        at = (
            _years(years)[:, None].astype("datetime64[M]") + np.arange(12).astype("timedelta64[M]")
        ).reshape(-1)
    else:
        values = np.asarray(table[_COLUMNS[name]], np.float64)
        column = {"sunspots": "YEAR", "nile": "year"}.get(name)
        at = np.asarray(table.index) if column is None else _years(np.asarray(table[column]).astype(int))
    values = values[:, None]
    whole = fill_missing(values, missing, (name,))
    return Series(name, (name,), whole, _PERIODS[name], filled=np.isnan(values), times=at)


def _years(years: Int[np.ndarray, "time"]) -> Shaped[np.ndarray, "time"]:
    """datetime64 in years."""
    return (years - 1970).astype("datetime64[Y]")


# Files


_PACKED = "|".join(re.escape(each.ending) for each in PACKINGS)
_TABLE_FILE = re.compile(rf"(.+)\.(csv|tsv|txt|dat)({_PACKED})?", re.IGNORECASE | re.DOTALL)


def stem(path: Path) -> str:
    """The name of a file without the endings of tables and of what packed them: load of load.csv.gz."""
    named = _TABLE_FILE.fullmatch(path.name)
    return named[1] if named else path.stem


def read_csv(
    path: Path,
    columns: Sequence[str] = (),
    time_column: str = "",
    missing: Missing = "error",
    decimal: Decimal = "auto",
) -> Series:
    """The named columns of a table in a text file (`read_table`), one row for each time.

    Where no columns are named, all of numbers but the time are read, a time column is looked for
    (`times.time_column`), and the notes of the series say what was found and what was left out. Rows of
    empty cells are rows of missing values. Raises ValueError, saying where, for a column that is not there
    or named twice, a cell that is no finite number in a column of numbers, a time that does not increase or
    leaves a gap, missing values unless `missing` says what to do with them, and as `read_table` does.
    """
    table = read_table(path, decimal)
    choice = choose(path, table, columns, time_column, decimal)
    return make_series(*rows_of(path, table, choice), missing)._replace(notes=choice.notes)


class Choice(NamedTuple):
    """Which columns hold what: values, the times (or none, ""), others beside; and the decimal mark."""

    columns: tuple[str, ...]
    time: str
    mark: str
    notes: tuple[str, ...]


def choose(
    path: Path,
    table: Table,
    columns: Sequence[str],
    time_column: str,
    decimal: Decimal,
    beside: Sequence[str] = (),
) -> Choice:
    """The columns named or, where none are, all of numbers but the time and those `beside`."""
    _check_names(path, table, (*columns, *beside), time_column)
    found = time_column or ("" if columns else times.time_column(table))
    chosen = tuple(columns) or _of_numbers(path, table, found, beside)
    read = [*chosen, *(name for name in (found, *beside) if name and is_numeric(table.columns[name]))]
    mark = decimal_mark([table.columns[name] for name in read], decimal)
    if mark == "," and decimal == "auto":
        _check_row_names(path, table, chosen[0])
    said = () if columns else (found, *chosen, *beside)
    return Choice(chosen, found, mark, _notes(table, said, "" if time_column else found, mark, decimal))


def rows_of(
    path: Path, table: Table, choice: Choice, known: Sequence[str] = (), past: Sequence[str] = ()
) -> tuple[Rows, Roles]:
    """All rows of a table, of values and covariates, in whatever order of times; and what columns are for."""
    roles = Roles(choice.columns, tuple(known), tuple(past), choice.time)
    names = (*roles.values, *roles.known, *roles.past)
    cells = np.stack([numbers(table, name, choice.mark) for name in names], axis=1)
    at = times.parse_times(table, choice.time, choice.mark) if choice.time else None
    return Rows(stem(path), cells, at, table.rows), roles


def _check_names(path: Path, table: Table, columns: Sequence[str], time_column: str) -> None:
    """ValueError for a column that is not there, or that is chosen twice."""
    for place, name in enumerate(columns):
        if name in columns[:place]:
            raise ValueError(f"--columns names {quoted(name)} twice: expected each column once")
    for name in (*columns, *((time_column,) if time_column else ())):
        if name not in table.columns:
            known = ", ".join(map(quoted, table.columns))
            raise ValueError(f"{path} has no column {quoted(name)}: it has {known}")


def _of_numbers(path: Path, table: Table, time_column: str, beside: Sequence[str]) -> tuple[str, ...]:
    """The columns of numbers but the time and those beside; ValueError where there is none.

    A first one without a name that numbers the rows, as pandas writes it, is none either.
    """
    rest = {name: cells for name, cells in table.columns.items() if name not in (time_column, *beside)}
    chosen = [name for name, cells in rest.items() if is_numeric(cells)]
    if len(chosen) > 1 and chosen[0] == next(iter(table.columns)) and _is_index(table):
        chosen.pop(0)
    if not rest:
        raise ValueError(f"{path} has no column beside the time {quoted(time_column)}")
    if not chosen:
        name, cells = next(iter(rest.items()))
        row, cell = next(((r, c) for r, c in zip(table.rows, cells, strict=True) if not is_blank(c)), (0, ""))
        got = f"{quoted(cell)} in row {row}" if row else "empty cells only"
        raise ValueError(
            f"{path} has no column of numbers: column {quoted(name)} has {got}; expected numbers such as "
            "1234.5, without spaces, units or signs, separated by comma, semicolon, tab or bar"
        )
    return tuple(chosen)


def _is_index(table: Table) -> bool:
    """Whether the first column has no name and numbers the rows."""
    return table.header[:1] == ("",) and _counts(next(iter(table.columns.values())))


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells are whole numbers of equal steps, as those of years, seconds and rows are."""
    if not all(map(re.compile("-?[0-9]{1,15}").fullmatch, cells)):
        return False
    steps = np.diff(np.array(cells, np.int64))
    return not steps.size or bool(steps[0] != 0 and (steps == steps[0]).all())


def _check_row_names(path: Path, table: Table, name: str) -> None:
    """ValueError where what stands before decimal commas numbers the rows: R writes names of rows so."""
    before = [cell.partition(",")[0] for cell in table.columns[name] if not is_blank(cell)]
    if len(table.columns) == 1 and len(before) > 2 and _counts(before):
        raise ValueError(
            f"{path} has one name, {quoted(name)}, above cells such as {quoted(table.columns[name][0])}: say "
            "--decimal=comma if they are numbers, or name the column before the comma too"
        )


def _notes(
    table: Table, found: Sequence[str], time_column: str, mark: str, decimal: Decimal
) -> tuple[str, ...]:
    """What the file did not say and was decided. found: the columns that are read, none if chosen."""
    notes = []
    if not table.header:
        notes.append("the file has no header: its columns are 1, 2, ...")
    if time_column:
        notes.append(f"times are in column {quoted(time_column)}")
    left = [quoted(name) for name in table.columns if name not in found] if found else []
    if left:
        more = f" and {len(left) - 10} more" if len(left) > 10 else ""
        notes.append(f"left out, as they hold no values of a series: {', '.join(left[:10])}{more}")
    first, *others = table.columns
    is_counted = len(table.rows) > 2 and _counts(table.columns[first])
    if is_counted and first in found[1:] and not set(found).isdisjoint(others):
        notes.append(
            f"column {quoted(first)} counts in equal steps and is forecast like the others: if it is the "
            "time, name it by --time_column"
        )
    if mark == "," and decimal == "auto":
        notes.append("decimal marks are commas: 1,5 is one and a half")
    return tuple(notes)

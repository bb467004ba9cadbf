"""Panels: many series of one kind in one file, each regular in time, of unequal lengths."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lmseq.data import forms
from lmseq.data.covariates import with_calendar
from lmseq.data.frequencies import describe_frequency, follows, future_times, infer_frequency, is_dates
from lmseq.data.gaps import Missing, Roles, Rows, make_series
from lmseq.data.series_files import choose, rows_of, stem
from lmseq.data.series_types import Series
from lmseq.data.tables import Decimal, Table, is_blank, is_numeric, numbers, quoted, read_cells, table_of

Form = Literal["auto", "table", "long", "wide"]
Channels = Literal["joint", "independent"]


class Panel(NamedTuple):
    """N series of one number of values D a step, each regular in time, of unequal lengths T_n.

    series: each with a name of its own (its id, or its column), values (T_n, D) float64, times, rows.
    test: what came after each, from a file of its own as M4's second one; the same order and names.
    frequency: pandas' offset alias of the steps, such as h, D, B, W-SUN, MS, QS-OCT, YS-JAN, 15min; empty
    where there are no dates. notes: what was decided in reading it, a line each.
    """

    name: str
    series: tuple[Series, ...]
    test: tuple[Series, ...] = ()
    frequency: str = ""
    notes: tuple[str, ...] = ()


class Reading(NamedTuple):
    """How a file of series is to be read.

    form: auto finds the long and the wide form where they are plain; all else is a table. repair: rows are
    sorted, those of one time become their mean, and times that lack are rows of missing values, which
    `missing` is for. Covariates are columns by name: known ahead (rows after the last value may have them),
    known so far, and one a series; calendar: and where dates lie in the day, week and year. channels: whether
    the columns of values are one series of D values or D series of one.
    """

    form: Form = "auto"
    columns: tuple[str, ...] = ()
    time_column: str = ""
    id_column: str = ""
    missing: Missing = "error"
    decimal: Decimal = "auto"
    repair: bool = False
    known_columns: tuple[str, ...] = ()
    past_columns: tuple[str, ...] = ()
    static_columns: tuple[str, ...] = ()
    calendar: bool = False
    channels: Channels = "joint"

    def beside(self) -> tuple[str, ...]:
        """The columns that are covariates, and the ids."""
        names = (*self.known_columns, *self.past_columns, *self.static_columns)
        return (*names, *((self.id_column,) if self.id_column else ()))


PLAIN = Reading()


def read_panel(path: Path, asked: Reading = PLAIN, *, test_path: Path | None = None) -> Panel:
    """The series of a file: a table (a row a time), the long form (with ids), or the wide one (a row each).

    test_path: a file of the same form with what came after each series, told by their names. Raises
    ValueError, in one line that says where, for all that is not such a file.
    """
    _check_roles(asked)
    series, notes, found = _read(path, asked)
    test: tuple[Series, ...] = ()
    if test_path is not None:
        test = _matched(series, _read(test_path, found)[0], path, test_path)
    frequency = _frequency(series)
    _check_test(series, test, frequency)
    if frequency:
        notes = (*notes, describe_frequency(frequency))
    if asked.calendar:
        series, test = (tuple(with_calendar(each, frequency) for each in part) for part in (series, test))
    if asked.channels == "independent":
        series, test = (split_columns(part) for part in (series, test))
    return Panel(stem(path), series, test, frequency, notes)


def split_columns(whole: Sequence[Series]) -> tuple[Series, ...]:
    """Each of D columns as a series of one value, named by its column; of several series, by both names."""
    return tuple(
        each._replace(
            name=column
            if len(whole) == 1
            else each.name
            if each.values.shape[1] == 1
            else f"{each.name} {column}",
            columns=(column,),
            values=each.values[:, [place]],
            filled=None if each.filled is None else each.filled[:, [place]],
            notes=(),
        )
        for each in whole
        for place, column in enumerate(each.columns)
    )


def _check_roles(asked: Reading) -> None:
    """ValueError for a column that is asked to be two things."""
    roles = {
        "--columns": asked.columns,
        "--time_column": (asked.time_column,),
        "--id_column": (asked.id_column,),
        "--known_columns": asked.known_columns,
        "--past_columns": asked.past_columns,
        "--static_columns": asked.static_columns,
    }
    seen: dict[str, str] = {}
    for flag, names in roles.items():
        for name in filter(None, names):
            if seen.get(name) == flag:
                raise ValueError(f"{flag} names {quoted(name)} twice: expected each column once")
            if name in seen:
                raise ValueError(
                    f"{quoted(name)} is named by {seen[name]} and by {flag}: expected one of them"
                )
            seen[name] = flag


# Forms


def _read(path: Path, asked: Reading) -> tuple[tuple[Series, ...], tuple[str, ...], Reading]:
    """The series of one file, what was decided, and the request with what was found."""
    lines, columns = read_cells(path, asked.decimal)
    named = (*asked.columns, *asked.beside(), *((asked.time_column,) if asked.time_column else ()))
    may_be_wide = asked.form == "auto" and not named
    if asked.form == "wide" or (may_be_wide and forms.is_wide(columns)):
        if named:
            raise ValueError(f"a wide file has a series a row, and no column to name: got {quoted(named[0])}")
        series = forms.read_wide(path, lines, columns, asked.missing, asked.decimal)
        notes = () if asked.form == "wide" else (f"a row is a series (wide form): {len(series)} series",)
        return series, notes, asked._replace(form="wide")
    if may_be_wide and asked.missing == "error" and forms.may_be_wide(columns):
        raise ValueError(
            f"{path}: a row may be a series, the shorter ones ending in empty cells, or a time: say "
            "--form=wide or --form=table"
        )
    table = table_of(path, lines, columns)
    key = forms.Key()
    # Values that are named without times are rows as they stand, whatever else is in the file.
    is_open = asked.form == "auto" and bool(asked.id_column or asked.time_column or not asked.columns)
    if is_open or asked.form == "long":
        beside = {*asked.columns, *asked.beside()} - {asked.id_column}
        key = forms.find_key(path, table, asked.id_column, asked.time_column, tuple(beside))
    if asked.form == "long" and not key.id:
        raise ValueError(f"{path}: expected a column that names the series of each row: say --id_column")
    if key.id and asked.form != "table":
        return _read_long(path, table, key, asked)
    if asked.id_column or asked.static_columns:
        raise ValueError("--id_column and --static_columns are for files of the long form: say --form=long")
    return _read_table(path, table, asked)


def _read_table(
    path: Path, table: Table, asked: Reading
) -> tuple[tuple[Series, ...], tuple[str, ...], Reading]:
    raw, roles, notes = _rows(path, table, asked)
    series = make_series(raw, roles, asked.missing, asked.repair)
    notes = (*notes, *series.notes)
    found = asked._replace(form="table", columns=roles.values, time_column=roles.time)
    return (series._replace(notes=notes),), notes, found


def _read_long(
    path: Path, table: Table, key: forms.Key, asked: Reading
) -> tuple[tuple[Series, ...], tuple[str, ...], Reading]:
    found = asked._replace(form="long", id_column=key.id, time_column=key.time or asked.time_column)
    if not asked.columns and "y" in table.columns and is_numeric(table.columns["y"]):
        found = found._replace(columns=("y",))
    raw, roles, more = _rows(path, table, found)
    ids = table.columns[key.id]
    blank = next((row for row, each in zip(table.rows, ids, strict=True) if is_blank(each)), None)
    if blank is not None:
        raise ValueError(f"row {blank}, column {quoted(key.id)}: expected the name of a series, got none")
    parts, series = forms.split_rows(raw, ids), []
    for name, part in parts.items():
        with _of(name):
            series.append(make_series(part, roles, asked.missing, asked.repair))
    repairs = tuple(f"{each.name}: {note}" for each in series for note in each.notes)
    told = f"series are told by column {quoted(key.id)} (long form): {len(series)} series"
    times = (f"times are in column {quoted(roles.time)}",) if roles.time and not asked.time_column else ()
    values = (f"values are in column {quoted('y')}",) if found.columns != asked.columns else ()
    if asked.static_columns:
        series = _with_static(series, table, ids, asked.static_columns, roles)
    notes = (told, *times, *values, *more, *repairs[:10])
    return tuple(series), notes, found._replace(columns=roles.values, time_column=roles.time)


def _rows(path: Path, table: Table, asked: Reading) -> tuple[Rows, Roles, tuple[str, ...]]:
    """All rows of a file, what their columns are for, and what was decided."""
    choice = choose(path, table, asked.columns, asked.time_column, asked.decimal, asked.beside())
    return *rows_of(path, table, choice, asked.known_columns, asked.past_columns), choice.notes


@contextmanager
def _of(name: str) -> Iterator[None]:
    """Faults of one series of several name it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"series {quoted(name)}: {error}") from None


def _with_static(
    series: Sequence[Series], table: Table, ids: Sequence[str], columns: Sequence[str], roles: Roles
) -> list[Series]:
    """Series with what each of them has: a number, or 0 and 1 for each of a column's texts."""
    first = {name: places[0] for name, places in forms.groups(ids).items()}
    names, parts = [], []
    for column in columns:
        cells = table.columns[column]
        for name, cell, row in zip(ids, cells, table.rows, strict=True):
            if cell != cells[first[name]] or is_blank(cell):
                raise ValueError(
                    f"row {row}, column {quoted(column)}: expected one value of series {quoted(name)}, as "
                    f"{quoted(cells[first[name]])}, got {quoted(cell)}: it is not static"
                )
        of = [cells[first[each.name]] for each in series]
        if is_numeric(cells):
            mark = "," if any("," in cell for cell in of) else "."
            values = numbers(Table({column: of}, [table.rows[at] for at in first.values()], ()), column, mark)
            names, parts = [*names, column], [*parts, values]
            continue
        for text in sorted(set(of)):
            names.append(f"{column}={text}")
            parts.append(np.array([float(each == text) for each in of]))
    static = np.stack(parts, axis=1)
    return [
        each._replace(static=row, static_names=tuple(names)) for each, row in zip(series, static, strict=True)
    ]


# What series of a panel have in common


def _frequency(series: Sequence[Series]) -> str:
    """The frequency of all series; ValueError where their steps differ."""
    timed = [each for each in series if each.times is not None and len(each.times) > 1]
    if not timed:
        return ""
    longest = max(timed, key=lambda each: len(each.times))
    frequency, usual = infer_frequency(longest.times), _usual_step(longest)
    seen: set[bytes] = set()  # most series have the same times
    for each in timed:
        if each is longest or each.times.tobytes() in seen:
            continue
        seen.add(each.times.tobytes())
        steps = usual, _usual_step(each)
        if not (follows(each.times, frequency) if frequency else 0.5 <= steps[1] / usual <= 1.5):
            named = [frequency or f"{steps[0]:g}", infer_frequency(each.times) or f"{steps[1]:g}"]
            told = named if named[0] != named[1] else [frequency, "others, of no frequency"]
            raise ValueError(
                f"series {quoted(longest.name)} and {quoted(each.name)} have other steps, {told[0]} and "
                f"{told[1]}: expected one frequency; keep them in files of their own"
            )
    return frequency


def _usual_step(series: Series) -> float:
    return float(np.median(np.diff(series.times).astype(np.float64)))


def _matched(
    series: Sequence[Series], test: Sequence[Series], path: Path, test_path: Path
) -> tuple[Series, ...]:
    """The test parts in the order of the series; ValueError unless they have the same names and columns."""
    if len(series) == len(test) == 1 and series[0].name == stem(path) and test[0].name == stem(test_path):
        test = (test[0]._replace(name=series[0].name),)
    by_name = {each.name: each for each in test}
    known = {each.name for each in series}
    for one, other, names, rest in ((path, test_path, known, by_name), (test_path, path, by_name, known)):
        lacking = [name for name in names if name not in rest]
        if lacking:
            raise ValueError(
                f"{one} has {len(lacking)} series that {other} has not, such as {quoted(min(lacking))}: "
                "expected the same series in both"
            )
    for each in series:
        if each.columns != by_name[each.name].columns:
            raise ValueError(f"{test_path} has other columns than {path}: expected {', '.join(each.columns)}")
    return tuple(by_name[each.name] for each in series)


def _check_test(series: Sequence[Series], test: Sequence[Series], frequency: str) -> None:
    """ValueError for a test part that does not go on where its series ends."""
    for each, later in zip(series, test, strict=False):
        if each.times is None or later.times is None:
            continue
        if is_dates(each.times) != is_dates(later.times):
            raise ValueError(
                f"series {quoted(each.name)}: its times and those of its test part differ in kind"
            )
        expected, got = future_times(each.times, frequency, 1)[0], later.times[0]
        if got <= each.times[-1] or (frequency and got != expected):
            raise ValueError(
                f"series {quoted(each.name)}: expected its test part to begin at {expected}, after "
                f"{each.times[-1]}, got {got}"
            )

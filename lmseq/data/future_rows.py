"""Covariates of the time to come from a file of their own, which need not have any value."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lmseq.data import forms, times
from lmseq.data.covariates import calendar, lacking
from lmseq.data.frequencies import future_times, is_dates
from lmseq.data.series_types import Series, Values
from lmseq.data.tables import Decimal, Table, decimal_mark, numbers, quoted, read_table


class Sought(NamedTuple):
    """How a file of the time to come is read; empty columns are found as those of series are."""

    columns: tuple[str, ...]
    time_column: str = ""
    id_column: str = ""
    decimal: Decimal = "auto"


def with_future(
    series: Sequence[Series], path: Path, sought: Sought, frequency: str, ends: Sequence[int]
) -> list[Series]:
    """The series with what a file says of their known covariates after their values, up to `ends` rows.

    A row is of a time, and of a series where there are several; rows of other times are not read. The
    covariates that are not sought are the calendar's, and go on by themselves. Raises ValueError for a time
    or a cell that lacks, a time that occurs twice, and as `read_table` does.
    """
    table = read_table(path, sought.decimal)
    for name in (*sought.columns, *filter(None, (sought.time_column, sought.id_column))):
        if name not in table.columns:
            raise ValueError(
                f"{path} has no column {quoted(name)}: it has {', '.join(map(quoted, table.columns))}"
            )
    key = forms.Key("", sought.time_column or times.time_column(table))
    if len(series) > 1:
        key = forms.find_key(path, table, sought.id_column, sought.time_column, sought.columns)
        if not key.id:
            raise ValueError(f"{path}: expected a column that names the series of each row: say --id_column")
    cells = [table.columns[name] for name in sought.columns]
    mark = decimal_mark(cells, sought.decimal)
    values = np.stack([numbers(table, name, mark) for name in sought.columns], axis=1)
    rows = forms.groups(table.columns[key.id]) if key.id else {}
    found = []
    for each, end in zip(series, ends, strict=True):
        at = rows.get(each.name, np.arange(0)) if key.id else np.arange(len(values))
        ahead = future_times(each.times, frequency, max(0, end - len(each.values)))
        places = _places(path, table, key.time, each, at, ahead, mark)
        known = _chosen(each, sought.columns, values, places, ahead)
        if len(sought.columns) < len(each.known_names):
            known = np.concatenate([known, calendar(ahead, frequency)], axis=1)
        found.append(each._replace(known=np.concatenate([each.known[: len(each.values)], known])))
    return found


def _places(
    path: Path, table: Table, time: str, series: Series, at: np.ndarray, ahead: np.ndarray, mark: str
) -> list[int | None]:
    """The row of each time to come; None where there is none."""
    if series.times is None:
        return [int(at[step]) if step < len(at) else None for step in range(len(ahead))]
    if not time:
        raise ValueError(
            f"{path} has no column of times: expected one, as {series.name} has; say --time_column"
        )
    given = times.parse_times(table, time, mark)
    if is_dates(given) != is_dates(series.times):
        raise ValueError(f"{path}: its times and those of {series.name} differ in kind, dates and numbers")
    place: dict[float, int] = {}
    for row in at.tolist():
        moment = given[row].astype(np.float64).item()
        if moment in place:
            raise ValueError(
                f"{path}: rows {table.rows[place[moment]]} and {table.rows[row]} are of one time"
            )
        place[moment] = row
    wanted = ahead.astype(given.dtype).astype(np.float64)
    return [place.get(moment) for moment in wanted.tolist()]


def _chosen(
    series: Series,
    columns: tuple[str, ...],
    values: Values,
    places: Sequence[int | None],
    ahead: np.ndarray,
) -> Float[np.ndarray, "horizon covariate"]:
    """The rows of these places; ValueError for the first that lacks."""
    for step, (place, time) in enumerate(zip(places, ahead, strict=True), 1):
        row = np.full(len(columns), np.nan) if place is None else values[place]
        if np.isnan(row).any():
            raise ValueError(lacking(series, columns[int(np.argmax(np.isnan(row)))], time, step))
    return values[np.array(places, np.int64)]

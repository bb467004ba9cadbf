"""Times of a table: what counts as one, that they increase, and by steps of much the same size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data import times
from lmseq.data.tables import Table


def table(*cells: str, name: str = "t") -> Table:
    rows = list(range(2, len(cells) + 2))
    return Table({name: list(cells), "x": ["1"] * len(cells)}, rows, (name, "x"))


def days(first: str, last: str, step: str = "D") -> list[str]:
    return [str(day) for day in np.arange(first, last, dtype=f"datetime64[{step}]")]


FINE = {
    "numbers": ["0", "0.5", "1"],
    "a single one": ["5"],
    "days": days("2023-12-01", "2024-03-05"),
    "months": days("1949-01", "1952-01", "M"),
    "first days of months": [f"{month}-01" for month in days("1949-01", "1952-01", "M")],
    "quarters": [f"2024-{month:02}-01" for month in (1, 4, 7, 10)],
    "years": [f"{year}-01-01" for year in range(1999, 2010)],
    "Monday to Friday": [day for day in days("2024-01-01", "2024-03-01") if np.is_busday(day)],
    "days as numbers": [day.replace("-", "") for day in days("2024-01-15", "2024-03-15")],
    "months as numbers": [month.replace("-", "") for month in days("1949-01", "1951-01", "M")],
    "hours": [f"2024-01-31T{hour:02}:00" for hour in range(24)],
    "zones": ["2024-10-27T02:30+02:00", "2024-10-27T02:30+01:00", "2024-10-27T03:30+01:00"],
    "an instrument's": ["0", "1.1", "1.9", "3.05", "4"],
}


@pytest.mark.parametrize("name", FINE)
def test_regular_times(name):
    found = times.read_times(table(*FINE[name]), "t")
    assert len(found) == len(FINE[name])
    assert np.issubdtype(found.dtype, np.datetime64) == ("-" in FINE[name][0] or len(FINE[name][0]) > 5)


FAULTS = {
    "a month left out": (["2024-01", "2024-02", "2024-03", "2024-05"], "row 5, column 't': 1.87 usual"),
    "a Wednesday left out": (
        ["2024-01-01", "2024-01-02", "2024-01-04", "2024-01-05"],
        "row 4, column 't': 2 usual",
    ),
    "not in order": (["3", "4", "2", "5"], "row 4, column 't': the time is earlier"),
    "twice the same": (["1", "2", "2", "3"], "column 't': rows 3 and 4 have the same time"),
    "two series": (["1", "2", "1", "2"], "rows 2 and 4 have the same time"),
    "the clock is put back": (["2024-10-27T02:00", "2024-10-27T02:00"], "rows 2 and 3 have the same time"),
    "a hundredth of a step": (["1", "2", "3", "3.01", "4", "5"], "row 5, column 't': 0.01 usual steps"),
    "no date": (["2024-01-01", "soon", "3"], "row 3, column 't': expected a time, such as .*, got 'soon'"),
    "no number": (["1", "soon", "3"], "row 3, column 't': expected a number, as the first time, got 'soon'"),
    "now": (["2024-01-01", "now"], "got 'now'"),
    "a hole": (["1", "", "3"], "row 3, column 't': expected a number, as the first time, got ''"),
    "infinite": (["1", "inf", "3"], "row 3, column 't': expected a finite number"),
    "no such day": (["2024-02-30", "2024-03-01"], "row 2, column 't': expected a time"),
    "which first": (["01/02/2024", "02/02/2024"], "column 't': '01/02/2024' may be 2024-02-01 or 2024-01-02"),
    "both first": (["31/01/2024", "01/31/2024"], "column 't': '31/01/2024' has the day first, '01/31/2024'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_where_they_are(name):
    cells, complaint = FAULTS[name]
    with pytest.raises(ValueError, match=complaint):
        times.read_times(table(*cells), "t")


@given(st.lists(st.floats(0.85, 1.2), min_size=1, max_size=20), st.data())
def test_a_step_that_differs_is_found(steps, data):
    """Steps that differ little pass; one row between two others, or one left out, is named."""
    at = np.concatenate([[0.0], np.cumsum(steps)])
    rows = range(2, at.size + 3)
    times.check_times(at, "t", rows)
    if at.size < 5:
        return
    place = data.draw(st.integers(1, at.size - 2))
    between = np.insert(at, place, at[place - 1] + 0.01 * (at[place] - at[place - 1]))
    with pytest.raises(ValueError, match=f"row {place + 2}, .* usual steps after the row before"):
        times.check_times(between, "t", rows)
    with pytest.raises(ValueError, match="usual steps after the row before"):
        times.check_times(np.append(at, at[-1] + 2.5), "t", rows)


# Which column


@pytest.mark.parametrize(
    "columns, found",
    [
        ({"date": ["2020-01-01", "2020-01-02"], "x": ["1", "2"]}, "date"),
        ({"x": ["1", "2"], "date": ["2020-01-01", "2020-01-02"]}, "date"),
        ({"start": ["2020-01", "2020-02"], "end": ["2020-02", "2020-03"], "x": ["1", "2"]}, "start"),
        ({"x": ["1", "2"], "start": ["2020-01", "2020-02"], "end": ["2020-02", "2020-03"]}, ""),
        ({"day": ["20200131", "20200201"], "x": ["1", "2"]}, "day"),
        ({"x": ["20200131", "20200201"]}, ""),
        ({"x": ["20200131", "20200232"], "y": ["1", "2"]}, ""),
        ({"year": ["1949", "1950"], "x": ["1", "2"]}, ""),
    ],
)
def test_the_obvious_column_of_times(columns, found):
    assert times.time_column(Table(columns, [2, 3], tuple(columns))) == found

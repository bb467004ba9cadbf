"""Dates as texts: what was written comes back, in any usual form, or one line says why not."""

import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data.dates import is_date, read_dates

DAYS = st.dates(datetime.date(1500, 1, 1), datetime.date(2290, 1, 1))
FORMS = [
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%Y.%m.%d",
    "%d %b %Y",
    "%d-%b-%Y",
    "%d. %B %Y",
    "%b %d, %Y",
    "%B %d %Y",
]
CLOCKS = ["", " %H", " %H:%M", "T%H:%M:%S", " %I:%M %p", " %H:%M:%S.%f", "T%H:%M:%SZ"]


def texts(days, form: str) -> list[str]:
    """As strftime, which on some systems does not fill years up to four digits."""
    return [day.strftime(form.replace("%Y", f"{day.year:04}")) for day in days]


@given(
    st.lists(
        st.datetimes(datetime.datetime(1500, 1, 1), datetime.datetime(2290, 1, 1)), min_size=1, max_size=5
    ),
    st.sampled_from(FORMS),
    st.sampled_from(CLOCKS),
)
def test_dates_of_any_form(times, form, clock):
    cells = texts(times, form + clock)
    found = read_dates(cells)
    assert all(map(is_date, cells))
    units = {"": "D", " %H": "h", " %H:%M": "m", " %I:%M %p": "m", " %H:%M:%S.%f": "us"}
    expected = np.array(times, "datetime64[us]").astype(f"datetime64[{units.get(clock, 's')}]")
    np.testing.assert_array_equal(found, expected)


@given(st.lists(DAYS, min_size=1, max_size=40), st.sampled_from("/-"), st.booleans())
def test_days_and_months_are_told_apart_or_asked_for(days, mark, day_first):
    """A day beyond 12, or the only regular reading, says which is which; never is it the other one."""
    cells = texts(days, f"%d{mark}%m{mark}%Y" if day_first else f"%m{mark}%d{mark}%Y")
    try:
        found = read_dates(cells)
    except ValueError as error:
        assert "may be" in str(error) and all(day.day <= 12 for day in days)
        return
    if any(day.day > 12 for day in days) or all(day.day == day.month for day in days):
        np.testing.assert_array_equal(found, np.array(days, "datetime64[us]"))


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y"])
def test_months_by_their_first_days_are_told_by_being_regular(form):
    days = [datetime.date(2020 + n // 12, n % 12 + 1, 1) for n in range(30)]
    np.testing.assert_array_equal(read_dates(texts(days, form)), np.array(days, "datetime64[us]"))
    with pytest.raises(ValueError, match=r"'0[12]/0[12]/2020' may be 2020-0"):
        read_dates(texts(days[:11], form))


@pytest.mark.parametrize(
    "cell, date",
    [
        ("Jan 2024", "2024-01-01"),
        ("january 2024", "2024-01-01"),
        ("Sept-2024", "2024-09-01"),
        ("2024 Feb", "2024-02-01"),
        ("2024Q3", "2024-07-01"),
        ("2024-Q3", "2024-07-01"),
        ("Q4 2024", "2024-10-01"),
        ("1Q2024", "2024-01-01"),
        ("2024M02", "2024-02-01"),
        ("03/2024", "2024-03-01"),
        ("2024-03", "2024-03-01"),
        ("31.1.2024 13:00", "2024-01-31T13:00"),
        ("31/01/2024 1:05 pm", "2024-01-31T13:05"),
        ("31/01/2024 12:00 AM", "2024-01-31T00:00"),
        ("2024-10-27T02:30+02:00", "2024-10-27T00:30"),
    ],
)
def test_forms_one_by_one(cell, date):
    assert is_date(cell) and read_dates([cell])[0] == np.datetime64(date)


@pytest.mark.parametrize(
    "cell",
    ["", "12", "2024", "20240131", "1.2024", "31.01.24", "now", "May", "2024Q5", "13/2024", "x 2024-01-01"],
)
def test_what_is_no_date(cell):
    assert not is_date(cell) and np.isnat(read_dates([cell])[0])


@pytest.mark.parametrize("cell", ["30.02.2024", "31 Jun 2024", "2024-01-31 13:00 pm", "2024-01-31T25:00"])
def test_what_no_calendar_has(cell):
    assert np.isnat(read_dates([cell])[0])

"""Frequencies: inferred as pandas has them, and the times that come next as its date_range has them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data import frequencies as f

ALIASES = (
    "h 2h min 15min s D 2D B W-SUN W-WED MS ME QS-OCT QS-NOV QE-DEC YS-JAN YE-DEC YE-JUN 2W-SUN 6MS".split()
)
STARTS = st.datetimes(pd.Timestamp("1960-01-01"), pd.Timestamp("2030-12-31")).map(
    lambda at: at.replace(microsecond=0)
)


@given(st.sampled_from(ALIASES), STARTS, st.booleans(), st.integers(12, 30), st.integers(1, 40))
def test_what_comes_next_is_what_pandas_has(alias, start, at_midnight, size, horizon):
    start = (
        pd.Timestamp(start).normalize()
        if at_midnight or alias not in "h 2h min 15min s"
        else pd.Timestamp(start)
    )
    dates = pd.date_range(start, periods=size + horizon, freq=alias).to_numpy("datetime64[us]")
    times, ahead = dates[:size], dates[size:]
    found = f.infer_frequency(times)
    assert f.split_frequency(found) is not None and f.follows(times, found)
    np.testing.assert_array_equal(f.future_times(times, found, horizon), ahead)
    np.testing.assert_array_equal(f.future_times(times, alias, horizon), ahead)
    np.testing.assert_array_equal(pd.date_range(times[0], periods=size, freq=found), times)
    assert f"({found})" in f.describe_frequency(found) or found == alias
    assert f.regular_steps(times)[1].all()
    holed = np.delete(times, [4])  # by most steps, where some lack
    np.testing.assert_array_equal(f.future_times(holed, f.step_frequency(holed), horizon), ahead)


@pytest.mark.parametrize("day", [15, 30, 31])
@pytest.mark.parametrize("months", [1, 2, 3, 12])
def test_days_of_months(day, months):
    """Pandas has no name for the 15th of a month; the 30th is the last one of February."""
    each = np.datetime64("2023-01") + (months * np.arange(30)).astype("timedelta64[M]")
    last = (each + f.MONTH).astype("datetime64[D]") - f.DAY
    days = np.minimum(each.astype("datetime64[D]") + np.timedelta64(day - 1, "D"), last).astype(
        "datetime64[us]"
    )
    found = f.infer_frequency(days[:14])
    np.testing.assert_array_equal(f.future_times(days[:14], found, 16), days[14:])


def test_of_two_dates_and_one():
    dates = np.array(["2024-01-01", "2024-02-01"], "datetime64[D]")
    assert f.infer_frequency(dates) == "MS" and f.infer_frequency(dates[:1]) == ""
    assert f.infer_frequency(dates[:1] + np.array([0, 7])) == "W-MON"
    assert f.infer_frequency(dates[:1] + np.array([0, 30, 61])) == "" == f.infer_frequency(np.arange(9.0))


def test_steps_without_a_frequency_go_on_by_the_usual_one():
    np.testing.assert_array_equal(f.future_times(np.array([1.0, 3.0, 5.0]), "", 3), [7, 9, 11])
    np.testing.assert_array_equal(f.future_times(None, "", 3), [1, 2, 3])
    dates = np.array(["2024-01-01", "2024-01-11", "2024-01-20", "2024-01-30"], "datetime64[D]")
    assert str(f.future_times(dates, "", 2)[1])[:10] == "2024-02-19"


def test_said_to_people():
    said = {alias: f.describe_frequency(alias) for alias in ("h", "15min", "B", "MS", "QS-OCT", "WOM-3FRI")}
    assert list(said.values()) == [
        "a step is 1 hour (h)",
        "a step is 15 minutes (15min)",
        "a step is 1 business day (B)",
        "a step is 1 month (MS)",
        "a step is 1 quarter (QS-OCT)",
        "steps are WOM-3FRI",
    ]

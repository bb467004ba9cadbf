"""Series of files: every kind of fault, and what is done about missing values."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.series import BUNDLED
from lmseq.data import series_files as files

# Missing values

holed = st.lists(st.sampled_from([np.nan, 1.0, 2.0, 5.0]), min_size=1, max_size=12)


@given(holed)
def test_previous_by_a_loop(column):
    values = np.array(column)[:, None]
    if np.isnan(column[0]):
        with pytest.raises(ValueError, match="'a' has no value in row 1"):
            files.fill_missing(values, "previous", ("a",))
        return
    expected = list(column)
    for i in range(1, len(column)):
        expected[i] = expected[i - 1] if np.isnan(expected[i]) else expected[i]
    np.testing.assert_array_equal(files.fill_missing(values, "previous", ("a",))[:, 0], expected)


@given(holed)
def test_interpolate_by_a_loop(column):
    values = np.array(column)[:, None]
    if np.isnan(column[0]) or np.isnan(column[-1]):
        with pytest.raises(ValueError, match="has no value in row"):
            files.fill_missing(values, "interpolate", ("a",))
        return
    filled = files.fill_missing(values, "interpolate", ("a",))[:, 0]
    for i in range(len(column)):
        left = max(j for j in range(i + 1) if not np.isnan(column[j]))
        right = min(j for j in range(i, len(column)) if not np.isnan(column[j]))
        share = (i - left) / (right - left) if right > left else 0.0
        assert filled[i] == pytest.approx(column[left] + share * (column[right] - column[left]))


# Files


def file_of(tmp_path, text: str, encoding: str = "utf-8"):
    path = tmp_path / "load.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_was_written_is_read(tmp_path, delimiter, encoding):
    values = np.random.default_rng(0).normal(size=(20, 3))
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["a", "b b", "ç"], *values.tolist()])
    path = file_of(tmp_path, out.getvalue(), encoding)
    np.testing.assert_array_equal(files.read_csv(path).values, values)
    chosen = files.read_csv(path, ("ç", "a"))
    assert chosen.columns == ("ç", "a") and chosen.name == "load"
    np.testing.assert_array_equal(chosen.values, values[:, [2, 0]])


TIMES = {
    "months, a year long": ([f"2024-{month:02}-01" for month in range(1, 13)], None),
    "a month left out": (["2024-01-01", "2024-02-01", "2024-03-01", "2024-05-01"], "row 5, column 't': 1.9"),
    "not in order": (["3", "4", "2", "5"], "row 4, column 't': the time is not later"),
    "twice the same": (["1", "2", "2", "3"], "row 4, column 't': the time is not later"),
    "zones": (["2024-10-27T02:30+02:00", "2024-10-27T02:30+01:00", "2024-10-27T03:30+01:00"], None),
    "no date": (["1", "soon", "3"], "row 3, column 't': expected a number or an ISO date"),
    "infinite": (["1", "inf", "3"], "row 3, column 't': expected a finite time"),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_checked(tmp_path, name):
    times, complaint = TIMES[name]
    path = file_of(tmp_path, "\n".join(["t,x", *(f"{time},{i * i}" for i, time in enumerate(times))]))
    if complaint is None:
        assert files.read_csv(path, time_column="t").columns == ("x",)
    else:
        with pytest.raises(ValueError, match=complaint):
            files.read_csv(path, time_column="t")


FAULTS = {
    "empty": ("", "is empty"),
    "header only": ("a,b\n", "a row for each time, got 1"),
    "a hole in a single column": ("a\n1\n\n3\n\n", "1 missing value.*row 3, column 'a'"),
    "only commas": (",,\n,,\n", "got 0"),
    "a word": ("a\n1\n\nmany\n", "row 4, column 'a': expected a number, got 'many'"),
    "infinite": ("a\n1\n-inf\n", "row 3, column 'a': expected a finite number"),
    "a hole": ("a,b\n1,1\n\n2,\n3,3\n", "1 missing value.*row 4, column 'b'"),
    "ragged": ("a,b\n1,2\n3\n", "row 3: the header has 2 cells, this row 1"),
    "a name twice": ("a,a\n1,2\n", "names a column twice"),
    "an open quote": ('a\n"1\n2\n', "row"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_where_they_are(tmp_path, name):
    text, complaint = FAULTS[name]
    with pytest.raises(ValueError, match=complaint):
        files.read_csv(file_of(tmp_path, text))


def test_columns_and_encodings_that_are_not_there(tmp_path):
    path = file_of(tmp_path, "a,b\n1,2\n3,4\n")
    with pytest.raises(ValueError, match="no column 'c': it has a, b"):
        files.read_csv(path, ("c",))
    with pytest.raises(ValueError, match="no column beside the time"):
        files.read_csv(file_of(tmp_path, "t\n1\n2\n"), time_column="t")
    with pytest.raises(ValueError, match="not UTF-8: byte 2"):
        files.read_csv(file_of(tmp_path, "a\n\xe9\n", "latin-1"))


def test_bundled_series():
    pytest.importorskip("statsmodels")
    assert all(files.bundled(name, "interpolate").name == name for name in BUNDLED)
    assert [len(files.bundled(name).values) for name in ("sunspots", "nile", "elnino")] == [309, 100, 732]
    with pytest.raises(ValueError, match="missing value"):
        files.bundled("co2")
    filled = files.bundled("co2", "interpolate").values
    assert np.isfinite(filled).all() and 310 < filled.min() < filled.max() < 380

"""Series of files: every kind of fault, and what is done about missing values."""

import re
from pathlib import Path

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
        with pytest.raises(ValueError, match=r"'a' has no value (in row 1|at all)"):
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
        with pytest.raises(ValueError, match=r"has no value (in row|at all)"):
            files.fill_missing(values, "interpolate", ("a",))
        return
    filled = files.fill_missing(values, "interpolate", ("a",))[:, 0]
    for i in range(len(column)):
        left = max(j for j in range(i + 1) if not np.isnan(column[j]))
        right = min(j for j in range(i, len(column)) if not np.isnan(column[j]))
        share = (i - left) / (right - left) if right > left else 0.0
        assert filled[i] == pytest.approx(column[left] + share * (column[right] - column[left]))


# Files


def read(tmp_path, text: str, **settings):
    path = tmp_path / "load.csv"
    path.write_text(text, encoding="utf-8")
    return files.read_csv(path, **settings)


DATED = "date,city,load\n2024-01-30,Bern,1\n2024-01-31,Bern,4\n2024-02-01,Bern,9\n"
# text, settings: columns, first values, notes
FOUND = {
    "a header": (("a,b\n1,2\n3,4\n", {}), ("a", "b"), [1, 2], ()),
    "no header": (("1,2\n3,4\n", {}), ("1", "2"), [1, 2], ("no header: its columns are 1, 2",)),
    "a column by its place": (("1,2\n3,4\n", {"columns": ("2",)}), ("2",), [2], ("no header",)),
    "a row of nothing": (("a,b\n1,2\n,\n3,4\n", {"missing": "interpolate"}), ("a", "b"), [1, 2], ()),
    "decimal commas": (("a;b\n1,5;2\n", {}), ("a", "b"), [1.5, 2], ("decimal marks are commas",)),
    "said to be decimal": (("a;b\n1,234;2\n", {"decimal": "comma"}), ("a", "b"), [1.234, 2], ()),
    "said to be grouped": (("a;b\n1,234;2\n", {"decimal": "point"}), ("a", "b"), [1234, 2], ()),
    "dates and words": ((DATED, {}), ("load",), [1], ("times are in column 'date'", "left out, .*: 'city'")),
    "dates that are named": ((DATED, {"time_column": "date"}), ("load",), [1], ("left out, .*: 'city'",)),
    "all that is read": ((DATED, {"columns": ("load",)}), ("load",), [1], ()),
    "a comma in a name": (('"a,b",c\n1,2\n', {"columns": ("a,b",)}), ("a,b",), [1], ()),
    "an odd name": (("$a_{日,b\n1,2\n".replace(",", ";"), {}), ("$a_{日", "b"), [1, 2], ()),
    "no name": (("a,,b\n1,2,3\n", {}), ("a", "2", "b"), [1, 2, 3], ()),
    "rows numbered by pandas": ((",a\n0,5\n1,6\n", {}), ("a",), [5], ("left out, .*: '1'",)),
    "rows of the end of a table": ((",a\n900,5\n901,6\n", {}), ("a",), [5], ("left out, .*: '1'",)),
    "every second row": ((",a\n-2,5\n0,6\n2,7\n", {}), ("a",), [5], ("left out, .*: '1'",)),
    "rows in reverse": ((",a\n2,5\n1,6\n", {}), ("a",), [5], ("left out, .*: '1'",)),
    "no name, and no number of rows": ((",a\n1,5\n2,6\n4,7\n", {}), ("1", "a"), [1, 5], ()),
    "unnamed times": ((",a\n1,5\n2,6\n", {"time_column": "1"}), ("a",), [5], ()),
    "numbered rows that have a name": (("n,a\n1,5\n2,6\n", {}), ("n", "a"), [1, 5], ()),
    "times with decimal commas": (
        ("t;x\n0,5;1\n1,0;2\n", {"time_column": "t"}),
        ("x",),
        [1],
        ("decimal marks are commas",),
    ),
    "dates and decimal commas": (
        ("date;load, kW\n2024-01-01;1,5\n2024-01-02;2,5\n2024-01-03;3,5\n", {}),
        ("load, kW",),
        [1.5],
        ("times are in column 'date'", "decimal marks are commas"),
    ),
    "dates and decimal commas without names": (
        ("2024-01-01;1,5\n2024-01-02;2,5\n2024-01-03;3,5\n", {"columns": ("2",)}),
        ("2",),
        [1.5],
        ("no header", "decimal marks are commas"),
    ),
    "words and decimal commas": (
        ("a;b;c, d\nx;y;1,5\nz;y;2,5\n", {}),
        ("c, d",),
        [1.5],
        ("left out, .*: 'a', 'b'", "decimal marks are commas"),
    ),
    "a column of nothing": (("a,b\n1,\n2,\n", {}), ("a",), [1], ("left out, .*: 'b'",)),
    "percents": (("a,b\n1,5%\n2,6%\n", {}), ("a",), [1], ("left out, .*: 'b'",)),
    "the last digits": (("a\n0.1\n123456789.123456789\n5e-324\n", {}), ("a",), [0.1], ()),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_read_and_what_is_said_of_it(tmp_path, name):
    (text, settings), columns, first, notes = FOUND[name]
    found = read(tmp_path, text, **settings)
    assert (found.name, found.columns) == ("load", columns)
    assert found.values[0].tolist() == first and len(found.values) == text.count("\n") - (
        "no h" not in str(notes)
    )
    assert len(found.notes) == len(notes) and all(map(re.search, notes, found.notes))


@pytest.mark.parametrize("text", ["year,v\n1900,3\n1901,5\n1902,4\n", "t;v\n0;3\n60;5\n120;4\n"])
def test_a_column_that_counts_is_named(tmp_path, text):
    """It may be the time, or a quantity: nobody can tell."""
    found = read(tmp_path, text)
    assert len(found.columns) == 2 and "counts in equal steps" in found.notes[-1]
    assert not read(tmp_path, text, time_column=found.columns[0]).notes
    assert not read(tmp_path, text, columns=found.columns).notes


def test_names_of_rows_are_no_whole_parts(tmp_path):
    """R writes one name less than there are columns."""
    with pytest.raises(
        ValueError, match="has one name, 'v', above cells such as '1,11': say --decimal=comma"
    ):
        read(tmp_path, "v\n1,11\n2,12\n3,13\n")
    assert read(tmp_path, "v\n1,11\n2,12\n3,13\n", decimal="comma").values[:, 0].tolist() == [
        1.11,
        2.12,
        3.13,
    ]


def test_rows_of_nothing_keep_their_place(tmp_path):
    found = read(tmp_path, "a,b\n1,2\n,\n\n4,8\n", missing="interpolate")
    assert found.values.tolist() == [[1, 2], [2, 4], [3, 6], [4, 8]]
    assert found.filled.tolist() == [[False] * 2, [True] * 2, [True] * 2, [False] * 2]


FAULTS = {
    "a row of nothing": ("a,b\n1,2\n,\n3,4\n", {}, "2 missing value.*row 3, column 'a': choose --missing"),
    "a blank line": ("a,b\n1,2\n\n3,4\n", {}, "2 missing value.*row 3, column 'a'"),
    "a hole in a single column": ("a\n1\n\n3\n\n", {}, "1 missing value.*row 3, column 'a'"),
    "a hole": ("a,b\n1,1\n2,\n3,3\n", {}, "1 missing value.*row 3, column 'b'"),
    "a hole at the start": ("a\n\n2\n", {"missing": "previous"}, "no value in row 2, its first"),
    "a hole at the end": ("a,b\n1,2\n3,\n", {"missing": "interpolate"}, "no value in row 3, its last"),
    "nothing at all": (
        "a,b\n1,\n2,\n",
        {"columns": ("b",), "missing": "previous"},
        "'b' has no value at all",
    ),
    "a word": ("a\n1\n2\nmany\n", {}, "row 4, column 'a': expected a number, got 'many'"),
    "a number of Python's": ("a\n1\n10_128\n", {}, "row 3, column 'a': expected a number, got '10_128'"),
    "a currency": ("a\n$5\n$6\n", {}, "no column of numbers: column 'a' has '\\$5' in row 2"),
    "a date": (DATED, {"columns": ("date",)}, "got '2024-01-30': if these are the times.*--time_column"),
    "two marks": ("a;b\n1,5;1.5\n", {}, "row 2, column 'a': .*its decimal mark is not '.', see --decimal"),
    "a mark that may be either": ('a\n"1,234"\n', {}, "may be 1.234 or 1234: say --decimal"),
    "a semicolon that lacks": (
        "a;b, c\n1;1,5\n2;2,5\n3 3,5\n",
        {},
        "row 4: the first row has 2 cells, this row 1",
    ),
    "two separators": (
        "1;2,3\n4;5,6\n",
        {"decimal": "point"},
        "may be separated by ',' or by ';': say --decimal=comma if commas are decimal",
    ),
    "two separators and no comma": ("a;b|c\nd;e|f\n", {}, "by ';' or by '.': put cells .* in quotes"),
    "infinite": ("a\n1\n-inf\n", {}, "row 3, column 'a': expected a finite number"),
    "a column twice": ("a,b\n1,2\n", {"columns": ("a", "b", "a")}, "--columns names 'a' twice"),
    "no such column": ("a,b\n1,2\n", {"columns": ("c",)}, "no column 'c': it has 'a', 'b'"),
    "no such time": ("a,b\n1,2\n", {"time_column": "c"}, "no column 'c': it has 'a', 'b'"),
    "the time alone": ("t\n1\n2\n", {"time_column": "t"}, "no column beside the time 't'"),
    "a day left out": (
        DATED.replace("2024-02-01", "2024-02-03") + "2024-02-04,Bern,2\n",
        {},
        "row 4.*--columns",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_where_they_are(tmp_path, name):
    text, settings, complaint = FAULTS[name]
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path, text, **settings)


@pytest.mark.parametrize(
    "name, stem",
    [
        ("load.csv", "load"),
        ("load.CSV", "load"),
        ("a.b.csv.gz", "a.b"),
        ("load.data", "load"),
        (".csv", ".csv"),
    ],
)
def test_names_of_files(name, stem):
    assert files.stem(Path(name)) == stem


def test_bundled_series():
    pytest.importorskip("statsmodels")
    assert all(files.bundled(name, "interpolate").name == name for name in BUNDLED)
    assert [len(files.bundled(name).values) for name in ("sunspots", "nile", "elnino")] == [309, 100, 732]
    with pytest.raises(ValueError, match="missing value"):
        files.bundled("co2")
    filled = files.bundled("co2", "interpolate").values
    assert np.isfinite(filled).all() and 310 < filled.min() < filled.max() < 380

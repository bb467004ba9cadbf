"""Tables in text files: what was written comes back, or one line says why not; never something else."""

import bz2
import csv
import gzip
import io
import lzma
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmseq.data import series_files, tables
from lmseq.data.tables import read_table

# Files drawn at random


class Written(NamedTuple):
    """A file, what stands in it, and what must be said of it."""

    content: bytes
    names: tuple[str, ...] | None
    values: np.ndarray
    decimal: str


KNOWN = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6)
WORDS = st.text(st.sampled_from("ab ç日$-"), max_size=4).map(lambda text: f"w{text}".strip())
NAMES = st.text(st.sampled_from("ab ç日$\"';,|\t.1\n"), max_size=5).map(lambda text: f"x{text}".strip())


@st.composite
def files(draw, is_plain: bool = False) -> Written:
    """A CSV file as some program writes it, with the flag that it cannot be read without.

    is_plain: of several columns, named by letters, without holes, and with the flag for its decimal mark.
    """
    width, height = draw(st.integers(1 + is_plain, 3)), draw(st.integers(1, 5))
    cell = KNOWN if is_plain else KNOWN | st.none()
    # Nothing can be filled in before the first row.
    rows = [draw(st.lists(each, min_size=width, max_size=width)) for each in [KNOWN] + [cell] * (height - 1)]
    names = ["a", "b", "c"][:width]
    if not is_plain:
        names = draw(st.none() | st.lists(NAMES, min_size=width, max_size=width, unique=True))
    mark, separator = draw(st.sampled_from(".,")), draw(st.sampled_from(tables.SEPARATORS))
    # Of a single column nobody sees whether a comma separates or is decimal.
    unclear = mark == "," and width == 1 and (names is None or "," in names[0])
    named = "comma" if mark == "," else "point"
    decimal = named if unclear or is_plain else draw(st.sampled_from(["auto", named]))
    # Nor whether 1,2 are two numbers that a comma separates, if commas are said to be decimal.
    all_quoted = decimal == "comma" and separator == ","
    out = io.StringIO()
    writer = csv.writer(
        out,
        delimiter=separator,
        lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r", "\r\r\n"])),
        quoting=csv.QUOTE_ALL if all_quoted else draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    blank = draw(st.sampled_from(["", "NA", "nan"]))
    cells = [[blank if v is None else repr(v).replace(".", mark) for v in row] for row in rows]
    writer.writerows(([names] if names else []) + cells)
    text = out.getvalue() + draw(st.sampled_from(["", "\n", "\n\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    values = np.array([[np.nan if v is None else v for v in row] for row in rows], np.float64)
    return Written(text.encode(encoding), names and tuple(names), values, decimal)


@st.composite
def mixed_files(draw) -> Written:
    """A file of numbers with what stands beside them: dates, words, or an index as pandas writes it."""
    width, height = draw(st.integers(1, 2)), draw(st.integers(2, 5))
    rows = draw(st.lists(st.lists(KNOWN, min_size=width, max_size=width), min_size=height, max_size=height))
    mark, separator = draw(st.sampled_from([".,", ".;", ".\t", ",;", ",\t", ",|"]))
    beside = draw(st.sampled_from([("dates",), ("words",), ("dates", "words"), ("index",)]))
    columns, header = [], []
    if "dates" in beside:
        unit = draw(st.sampled_from("DMm"))
        zone = draw(st.sampled_from(["", "Z", "+01:00"])) if unit == "m" else ""
        columns += [
            [
                f"{day}{zone}"
                for day in np.datetime64("2024-01-29", unit)
                + np.arange(height).astype(f"timedelta64[{unit}]")
            ]
        ]
    if "words" in beside:
        columns += [draw(st.lists(WORDS, min_size=height, max_size=height))]
    if "index" in beside:
        first, step = draw(st.integers(-10, 1000)), draw(st.sampled_from([-1, 1, 2]))
        columns += [[str(first + step * place) for place in range(height)]]
    names = tuple(str(len(columns) + place) for place in range(1, width + 1))
    if beside != ("dates",) or draw(st.booleans()):  # a first row with words is one of names
        names = tuple(draw(st.lists(NAMES, min_size=width, max_size=width, unique=True)))
        odd = {"dates": "day; or night", "words": "place, and where", "index": ""}
        header = [[*(odd[each] for each in beside), *names]]
    values = [[repr(value).replace(".", mark) for value in row] for row in rows]
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(
        [*header, *([*cells, *row] for *cells, row in zip(*columns, values, strict=True))]
    )
    decimal = draw(st.sampled_from(["auto", "comma" if mark == "," else "point"]))
    return Written(out.getvalue().encode(), names, np.array(rows, np.float64), decimal)


def is_read(path: Path, written: Written) -> bool:
    """Whether a file is not refused; fails where it is read as something else, or refused at length."""
    path.write_bytes(written.content)
    try:
        found = series_files.read_csv(path, missing="previous", decimal=written.decimal)
    except ValueError as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)
        return False
    names = written.names or tuple(map(str, range(1, written.values.shape[1] + 1)))
    known = [name for name, column in zip(names, written.values.T, strict=True) if np.isfinite(column).any()]
    assert found.columns == tuple(known)
    expected = written.values[:, [names.index(name) for name in known]]
    lacking = len(expected) - len(found.values)  # rows of nothing at the end
    assert lacking >= 0 and np.isnan(expected[len(found.values) :]).all()
    np.testing.assert_array_equal(found.observed(), expected[: len(found.values)])
    return True


@given(files() | mixed_files())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_series_that_was_written_or_one_line(tmp_path, written):
    is_read(tmp_path / "drawn.csv", written)


@pytest.mark.parametrize("kind, most_refused", [(files, 0.05), (mixed_files, 0.02)])
def test_few_files_are_refused(tmp_path, kind, most_refused):
    outcomes = []

    @given(kind())
    @settings(derandomize=True, database=None, deadline=None)
    def each(written):
        outcomes.append(is_read(tmp_path / "drawn.csv", written))

    each()
    assert outcomes.count(False) <= most_refused * len(outcomes), outcomes.count(False) / len(outcomes)


@given(files(is_plain=True))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_plain_file_is_never_refused(tmp_path, written):
    path = tmp_path / "drawn.csv"
    path.write_bytes(written.content)
    found = series_files.read_csv(path, decimal=written.decimal)
    np.testing.assert_array_equal(found.values, written.values)


# Separators, headers, lines


def table_of(tmp_path: Path, text: str | bytes, decimal: str = "auto", name: str = "load.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path, decimal)


@pytest.mark.parametrize(
    "text, header, first",
    [
        ("a,b\n1,2\n", ("a", "b"), ["1", "2"]),
        ("a;b\n1,5;2\n", ("a", "b"), ["1,5", "2"]),
        ("a\tb\n1,5\t2,5\n", ("a", "b"), ["1,5", "2,5"]),
        ("a|b\n1|2\n", ("a", "b"), ["1", "2"]),
        ("1,5;2,5\n3,5;4,5\n", (), ["1,5", "2,5"]),
        ("a\n1,5\n2\n", ("a",), ["1,5"]),
        ("1,2\n3,4\n", (), ["1", "2"]),
        ("2024-01-01,2\n2024-01-02,4\n", (), ["2024-01-01", "2"]),
        ('"a, ""b""",c\n1,2\n', ('a, "b"', "c"), ["1", "2"]),
        ("a, b\n 1 , 2\n", ("a", "b"), ["1", "2"]),
        (",b\nx,2\n", ("", "b"), ["x", "2"]),
        ("NA\n1\n", (), ["NA"]),
        (",\n1,2\n", (), ["", ""]),
    ],
)
def test_separator_and_header(tmp_path, text, header, first):
    table = table_of(tmp_path, text)
    assert table.header == header and [cells[0] for cells in table.columns.values()] == first


def test_rows_are_named_as_an_editor_counts_lines(tmp_path):
    table = table_of(tmp_path, '\n\n"a\nb",c\n1,2\n\n3,4\n,\n\n')
    assert table.columns == {"a\nb": ["1", "", "3"], "c": ["2", "", "4"]}
    assert table.rows == [5, 6, 7]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_ends_of_lines(tmp_path, end):
    table = table_of(tmp_path, b"\xef\xbb\xbf" + end.join(["a,b", "1,2", "3,4", "", ""]).encode())
    assert table.columns == {"a": ["1", "3"], "b": ["2", "4"]} and table.rows == [2, 3]


FAULTS = {
    "empty": ("", "is empty"),
    "blank": (" \n\n\t\n", "is empty"),
    "only commas": (",,\n,,\n", "no cell that is not empty"),
    "header only": ("a,b\n", "nothing below them"),
    "short row": ("a,b\n1,2\n3\n", "row 3: the first row has 2 cells, this row 1"),
    "long row": ("\na,b\n1,2\n3,4,5\n", "row 4: the first row has 2 cells, this row 3"),
    "short row of semicolons": ("a;b\n1,5;2\n3\n", "row 3: the first row has 2 cells"),
    "a name twice": ("a,b,a\n1,2,3\n", "names a column twice: 'a'"),
    "an open quote": ('a\n"1\n2\n', "is a quote not closed"),
    "a quote within": ('a,b\n"1"2,3\n', "is a quote not closed"),
    "Latin 1": ("a\né\n".encode("latin-1"), "not UTF-8, as its byte 2"),
    "UTF-16": ("a\n1\n".encode("utf-16"), "not UTF-8, as its byte 0"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_table(tmp_path, name):
    text, complaint = FAULTS[name]
    with pytest.raises(ValueError, match=complaint):
        table_of(tmp_path, text)


def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is none at .*none\.csv"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder"):
        read_table(tmp_path)


@pytest.mark.parametrize("module, ending", [(gzip, "gz"), (bz2, "BZ2"), (lzma, "xz")])
def test_packed_files(tmp_path, module, ending):
    packed = module.compress(b"a\n1\n2\n")
    assert table_of(tmp_path, packed, name=f"load.csv.{ending}").columns == {"a": ["1", "2"]}
    for content, name in ((packed, "load.csv"), (b"a\n1\n2\n", f"load.csv.{ending}")):
        assert table_of(tmp_path, content, name=name).columns == {"a": ["1", "2"]}, "whatever it is called"
    with pytest.raises(ValueError, match="cannot be read to its end"):
        table_of(tmp_path, packed[:-4], name=f"load.csv.{ending}")


def test_a_text_that_begins_as_a_packed_file(tmp_path):
    assert table_of(tmp_path, "BZh,b\n1,2\n").header == ("BZh", "b")


# Numbers


@given(st.integers(-(10**12), 10**12), st.sampled_from(".,"))
def test_groups_of_three_digits(number, mark):
    other = "," if mark == "." else "."
    text = f"{number:,}".replace(",", other) + f"{mark}5"
    table = tables.Table({"a": [text]}, [1], ("a",))
    assert tables.decimal_mark([[text]]) == mark
    whole = float(f"{number}.5")
    assert tables.numbers(table, "a", mark) == [whole]


@pytest.mark.parametrize(
    "cells, mark",
    [
        (["1.5"], "."),
        (["1,5"], ","),
        (["1.234"], "."),
        (["12"], "."),
        (["1,234", "0.5"], "."),
        (["1,234", "0,5"], ","),
        (["0,123"], ","),
        (["1,234,567"], "."),
        (["1.234.567"], ","),
        (["1.234,5", "NA"], ","),
    ],
)
def test_the_decimal_mark_is_found(cells, mark):
    assert tables.decimal_mark([cells]) == mark


def test_a_mark_that_may_be_either_is_asked_for():
    with pytest.raises(ValueError, match=r"'1,234' may be 1\.234 or 1234: say --decimal=comma or"):
        tables.decimal_mark([["12", "1,234"], ["7"]])
    assert (
        tables.decimal_mark([["1,234"]], "point") == "." and tables.decimal_mark([["1,234"]], "comma") == ","
    )


NO_NUMBERS = [
    "10_128",
    "1 000",
    "12 %",
    "$5",
    "5 €",
    "0x10",
    "1e",
    "e5",
    "-",
    "1,23,456",
    "１２",
    "1\x002",
    "--1",
]


@pytest.mark.parametrize("cell", NO_NUMBERS)
def test_what_is_no_number(cell):
    table = tables.Table({"a": [cell]}, [7], ("a",))
    with pytest.raises(ValueError, match="row 7, column 'a': expected a number, got "):
        tables.numbers(table, "a", ".")


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e400"])
def test_numbers_are_finite(cell):
    with pytest.raises(ValueError, match="expected a finite number"):
        tables.numbers(tables.Table({"a": [cell]}, [7], ("a",)), "a", ".")


LIKE_NUMBERS = st.text(st.sampled_from('0123456789.,+-e;"\n naifE_'), max_size=8)


@given(LIKE_NUMBERS)
@settings(max_examples=200, deadline=None)
def test_no_text_raises_anything_but_a_line(text):
    table = tables.Table({"a": [text]}, [7], ("a",))
    for mark in ".,":
        try:
            found = tables.numbers(table, "a", mark)
        except ValueError as error:
            assert str(error).startswith("row 7, column 'a': expected a ")
            continue
        assert np.isnan(found[0]) or found[0] == float(
            text.replace("," if mark == "." else ".", "").replace(mark, ".")
        )


@given(st.lists(LIKE_NUMBERS | KNOWN.map(repr), min_size=1, max_size=3), st.sampled_from(".,"))
@settings(max_examples=200, deadline=None)
def test_in_bulk_as_one_by_one(cells, mark):
    cells = [cell.strip() for cell in cells]
    found = tables.in_bulk(cells, mark)
    plain = [tables.is_blank(cell) or tables.is_number(cell, mark) for cell in cells]
    other, grouped = "," if mark == "." else ".", {"inf", "infinity"}
    if found is None:
        assert not all(plain) or any(other in cell or cell.lower().lstrip("+-") in grouped for cell in cells)
        return
    expected = [np.nan if tables.is_blank(cell) else float(cell.replace(mark, ".")) for cell in cells]
    assert all(plain)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "cell, holds",
    [
        ("2024-01", True),
        ("2024/1/3", True),
        ("2024-01-31", True),
        ("2024-01-31 12", True),
        ("2024-01-31T12:00:00.25+01:00", True),
        ("2024-01-31 12:00 Z", True),
        ("2024-01-01;1", False),
        ("2024-01-31;", False),
        ("2024-01-32", False),
        ("2024-13", False),
        ("2024", False),
        ("2024-01-31 noon", False),
        ("2024-01-31\n", False),
        ("１024-01-31", False),
    ],
)
def test_dates_end_where_they_end(cell, holds):
    assert tables.is_date(cell) == holds


class Scanned(str):
    """A text that counts how often it is searched whole."""

    searches = 0

    def __contains__(self, part):
        Scanned.searches += 1
        return super().__contains__(part)


def test_a_text_is_not_searched_for_each_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "read_text", lambda path: Scanned('a;b\n"1";2,5\n' + "3;4,5\n" * 100))
    table = read_table(tmp_path / "drawn.csv")
    assert len(table.rows) == 101 and 0 < Scanned.searches < 10


def test_the_time_taken_grows_as_the_file_does(tmp_path):
    def seconds(num_rows: int) -> float:
        path = tmp_path / "drawn.csv"
        path.write_text('a;b\n"1";2,5\n' + "3;4,5\n" * num_rows, encoding="utf-8")
        start = time.process_time()
        series_files.read_csv(path)
        return time.process_time() - start

    seconds(10)
    assert seconds(10_000) < 4 * 10 * seconds(1_000)

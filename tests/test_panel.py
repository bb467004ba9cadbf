"""Panels: the series that were written, in each form of file, or one line that says why not."""

import csv
import io
import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmseq.data.panel import Panel, Reading, read_panel
from lmseq.data.series_files import read_csv
from lmseq.data.tables import SEPARATORS
from tests.test_tables import files, mixed_files

IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(tmp_path: Path, text: str, test_path: Path | None = None, **asked) -> Panel:
    path = tmp_path / "shop.csv"
    path.write_text(text, encoding="utf-8")
    return read_panel(path, Reading(**asked), test_path=test_path)


def lines(*rows) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


# Files drawn at random


class Written(NamedTuple):
    """A file, how it is to be read, the series in it by name, and the frequency of their times."""

    content: bytes
    asked: dict
    series: dict[str, np.ndarray]
    times: dict[str, np.ndarray] | None


NUMBERS = st.floats(-1e12, 1e12, allow_nan=False).map(lambda x: x + 0.0) | st.integers(-(10**6), 10**6)
IDS = st.text(st.sampled_from("abç日 1'"), min_size=0, max_size=3).map(lambda text: f"s{text}".strip())
STEPS = {"D": "datetime64[D]", "M": "datetime64[M]", "h": "datetime64[h]"}


@st.composite
def written(draw, form: str) -> Written:
    names = draw(st.lists(IDS, min_size=2, max_size=4, unique=True))
    series = {name: draw(st.lists(NUMBERS, min_size=2, max_size=6)) for name in names}
    if form == "table":
        length = min(map(len, series.values()))
        series = {name: values[:length] for name, values in series.items()}
    mark, separator = draw(st.sampled_from([".,", ".;", ".\t", ",;", ",\t", ",|"]))
    assert separator in SEPARATORS
    step = draw(st.sampled_from([*STEPS, ""])) if form != "wide" else ""
    start = draw(st.integers(0, 20_000))
    counted = np.arange(start, start + 6).astype(STEPS.get(step, "float64"))
    shown = counted.astype(str) if step else counted.astype(int).astype(str)
    said = {name: [repr(value).replace(".", mark) for value in values] for name, values in series.items()}
    if form == "table":
        rows = [["t", *names], *zip(shown, *said.values(), strict=False)]
    elif form == "long":
        rows = [(name, at, cell) for name in names for at, cell in zip(shown, said[name], strict=False)]
        rows = [
            ["unique_id", "ds", "y"],
            *draw(st.sampled_from([rows, sorted(rows, key=lambda row: row[1])])),
        ]
    else:
        width = max(map(len, said.values()))
        rows = [[name, *cells, *[""] * (width - len(cells))] for name, cells in said.items()]
        rows = [[f"V{place}" for place in range(1, width + 2)], *rows]
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(rows)
    asked = {"form": draw(st.sampled_from(["auto", form])), "decimal": "comma" if mark == "," else "point"}
    if form == "table":
        asked |= {"channels": "independent", "time_column": "t"}
    times = None if form == "wide" else {name: counted[: len(values)] for name, values in series.items()}
    return Written(
        out.getvalue().encode(),
        asked,
        {name: np.array(values, float) for name, values in series.items()},
        times,
    )


def is_read(path: Path, drawn: Written) -> bool:
    """Whether a file is not refused; fails where it is read as something else, or refused at length."""
    path.write_bytes(drawn.content)
    try:
        panel = read_panel(path, Reading(**drawn.asked))
    except ValueError as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)
        return False
    assert {each.name for each in panel.series} == set(drawn.series)
    for each in panel.series:
        np.testing.assert_array_equal(each.values[:, 0], drawn.series[each.name])
        if drawn.times is not None:
            np.testing.assert_array_equal(each.times, drawn.times[each.name])
    return True


@pytest.mark.parametrize("form", ["table", "long", "wide"])
def test_the_panel_that_was_written_or_one_line(tmp_path, form):
    outcomes = []

    @given(written(form))
    @settings(deadline=None, max_examples=60)
    def each(drawn):
        outcomes.append(is_read(tmp_path / "drawn.csv", drawn))

    each()
    assert outcomes.count(False) <= 0.05 * len(outcomes), outcomes.count(False) / len(outcomes)


@given(written("long") | written("wide"), st.data())
@IN_ONE_FOLDER
def test_torn_files_are_refused_in_a_line_or_read_in_part(tmp_path, drawn, data):
    """Whatever is cut out of a file: no traceback."""
    start = data.draw(st.integers(0, len(drawn.content)))
    cut = drawn.content[:start] + drawn.content[data.draw(st.integers(start, len(drawn.content))) :]
    path = tmp_path / "torn.csv"
    path.write_bytes(cut)
    for repair in (False, True):
        try:
            panel = read_panel(path, Reading(repair=repair, missing="previous"))
        except ValueError as error:
            assert len(str(error)) < 1000
            continue
        assert all(np.isfinite(each.values).all() for each in panel.series)


# One series, and the same in each form


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "date;x\n2024-01-01;1,5\n2024-01-02;2,5\n2024-01-03;\n",
        "city,x\nA,1\nB,2\n",
        "1\n2\n",
    ],
)
def test_a_panel_of_one_series_is_that_series(tmp_path, text):
    panel = read(tmp_path, text, missing="previous")
    alone = read_csv(tmp_path / "shop.csv", missing="previous")
    (each,) = panel.series
    assert (each.name, each.columns, each.notes) == (alone.name, alone.columns, alone.notes)
    np.testing.assert_array_equal(each.values, alone.values)
    np.testing.assert_array_equal(each.filled, alone.filled)
    if alone.times is not None:
        np.testing.assert_array_equal(each.times, alone.times)


@given(files() | mixed_files())
@IN_ONE_FOLDER
def test_a_drawn_table_is_the_series_of_it(tmp_path, drawn):
    path, asked = tmp_path / "drawn.csv", {"missing": "previous", "decimal": drawn.decimal}
    path.write_bytes(drawn.content)
    try:
        alone = read_csv(path, **asked)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            read_panel(path, Reading(**asked))
        return
    (each,) = read_panel(path, Reading(**asked)).series
    assert (each.name, each.columns, each.notes) == (alone.name, alone.columns, alone.notes)
    np.testing.assert_array_equal(each.values, alone.values)


def test_one_panel_in_three_forms(tmp_path):
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=9).round(3) for name in ("north", "south", "west")}
    dates = [str(day) for day in np.arange("2024-01", "2024-10", dtype="datetime64[M]")]
    table = lines(["ds", *values], *zip(dates, *values.values(), strict=True))
    rows = [(name, *row) for name, each in values.items() for row in zip(dates, each, strict=True)]
    long = lines(["unique_id", "ds", "y"], *rows)
    wide = lines([f"V{n}" for n in range(1, 11)], *((name, *each) for name, each in values.items()))
    panels = [
        read(tmp_path, table, channels="independent"),
        read(tmp_path, long),
        read(tmp_path, lines(["unique_id", "ds", "y"], *rng.permutation(rows)), repair=True),
        read(tmp_path, wide),
        read(tmp_path, wide.split("\n", 1)[1], form="wide"),
    ]
    for panel in panels:
        assert panel.frequency == ("MS" if panel.series[0].times is not None else "")
        assert {each.name for each in panel.series} == set(values)
        for each in panel.series:
            np.testing.assert_array_equal(each.values[:, 0], values[each.name])


LONG = "shop,day,sales\n" + "".join(
    f"{shop},2024-01-{day:02},{day * day + at}\n" for at, shop in enumerate("AB") for day in range(1, 8 + at)
)


def test_the_order_of_series_is_irrelevant(tmp_path):
    head, *rows = LONG.splitlines(keepends=True)
    mixed = read(tmp_path, head + "".join(sorted(rows, key=lambda row: row[2:])))
    turned = read(tmp_path, head + "".join(rows[7:] + rows[:7]))
    for panel in (mixed, turned):
        by_name = {each.name: each for each in panel.series}
        for each in read(tmp_path, LONG).series:
            np.testing.assert_array_equal(each.values, by_name[each.name].values)
            np.testing.assert_array_equal(each.times, by_name[each.name].times)


# What is found, and said


FOUND = {
    "long": (LONG, {}, {"A": 7, "B": 8}, "D", "told by column 'shop'.*2 series"),
    "long, by whole numbers": (
        "id,ds,y\n" + "".join(f"{i},{n},{n * 0.5}\n" for i in ("x", "z") for n in range(3)),
        {},
        {"x": 3, "z": 3},
        "",
        "told by column 'id'",
    ),
    "long, ids of numbers": (
        LONG.replace("\nA", "\n17").replace("\nB", "\n4").replace("\n", ".5\n").replace("sales.5", "sales"),
        {},
        {"17": 7, "4": 8},
        "D",
        "told by column 'shop'",
    ),
    "long, the time last": (
        "unique_id,y,ds\n" + "".join(f"{i},{3 * n},{n}\n" for i in "ab" for n in range(4)),
        {},
        {"a": 4, "b": 4},
        "",
        "times are in column 'ds'",
    ),
    "long, ids named": (LONG, {"id_column": "shop"}, {"A": 7, "B": 8}, "D", "times are in column 'day'"),
    "long, ids and values named": (
        LONG,
        {"id_column": "shop", "columns": ("sales",)},
        {"A": 7, "B": 8},
        "D",
        "",
    ),
    "long, unique ids without times": ("unique_id,y\na,1\na,2\nb,5\n", {}, {"a": 2, "b": 1}, "", "told by"),
    "long without times": ("k,v\na,1\nb,5\na,2\n", {"id_column": "k"}, {"a": 2, "b": 1}, "", "told by"),
    "a text in each row": (
        "day,kind,x\n2024-01-01,a,1\n2024-01-02,b,2\n2024-01-03,a,2\n",
        {},
        {"shop": 3},
        "D",
        "left",
    ),
    "wide": ("V1,V2,V3,V4\nH1,1,2,3\nH2,4,5,\n", {}, {"H1": 3, "H2": 2}, "", r"wide form\): 2 series"),
    "wide, without names": ("H1,1,5,3\nH2,4,5,\n", {"form": "wide"}, {"H1": 3, "H2": 2}, "", ""),
    "rows with names": ("city,x1,x2\nBern,1,2\nChur,3,4\n", {}, {"shop": 2}, "", "left out.*'city'"),
    "business days": (
        "date;x\n" + "".join(f"{d:02}.01.2024;{d},5\n" for d in range(1, 20) if d % 7 not in (6, 0)),
        {},
        {"shop": 15},
        "B",
        "business day",
    ),
    "quarters": (
        "q,x\n" + "".join(f"{y}Q{q},{q}\n" for y in (2020, 2021) for q in range(1, 5)),
        {},
        {"shop": 8},
        "QS-OCT",
        "",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_and_said(tmp_path, name):
    text, asked, lengths, frequency, note = FOUND[name]
    panel = read(tmp_path, text, **asked)
    assert {each.name: len(each.values) for each in panel.series} == lengths
    assert panel.frequency == frequency and re.search(note, " | ".join(panel.notes))


FAULTS = {
    "wide or not": ("a,b,c\nx,1,2\ny,3,\n", {}, "say --form=wide or --form=table"),
    "years above": ("c,1990,1991,1992\nx,1,2,3\ny,4,5,6\n", {"form": "wide"}, "call the columns V1, V2"),
    "a series twice": ("V1,V2,V3\nx,1,2\nx,3,4\n", {"form": "wide"}, "rows 2 and 3 are both called 'x'"),
    "no name": ("V1,V2,V3\nx,1,2\n,3,4\n", {"form": "wide"}, "row 3: expected the name of a series"),
    "no value": ("V1,V2,V3\nx,1,2\ny,,\n", {"form": "wide"}, "row 3: series 'y' has no value"),
    "a hole": (
        "V1,V2,V3\nx,1,2\ny,,3\n",
        {"form": "wide"},
        "row 3: series 'y' has 1 missing value.*--missing",
    ),
    "a word": (
        "V1,V2,V3\nx,1,2\ny,5,many\n",
        {"form": "wide"},
        "row 3, column '3': expected a number, got 'many'",
    ),
    "columns of the wide form": (
        "V1,V2\nx,1\n",
        {"form": "wide", "columns": ("V2",)},
        "no column to name: got 'V2'",
    ),
    "long without an id": ("t,y\n1,2\n2,3\n", {"form": "long"}, "say --id_column"),
    "an id in a table": ("a,b\n1,2\n", {"form": "table", "id_column": "a"}, "--id_column .* long form"),
    "no such id": ("a,b\n1,2\n", {"id_column": "c"}, "no column 'c'"),
    "two roles": (
        "a,b\n1,2\n",
        {"id_column": "a", "columns": ("a",)},
        "'a' is named by --columns and by --id_column",
    ),
    "two of a date": (
        LONG + "A,2024-01-02,5\n",
        {},
        "series 'A': .*rows 3 and 17 have the same time.*--repair",
    ),
    "unsorted": (
        LONG.replace("A,2024-01-07", "A,2023-12-31"),
        {},
        "series 'A': row 8.*earlier.*sort the file, or say --repair",
    ),
    "a gap": (LONG.replace("A,2024-01-03,9\n", ""), {}, "series 'A': row 4.*2 usual steps after.*--repair"),
    "two frequencies": (
        LONG + "".join(f"C,2024-{m:02}-01,1\n" for m in range(1, 5)),
        {},
        "series 'B' and 'C' have other steps, D and MS: expected one frequency",
    ),
    "two steps": (
        "id,t,y\n" + "".join(f"a,{n},1\n" for n in range(9)) + "".join(f"b,{2 * n},1\n" for n in range(4)),
        {"id_column": "id", "time_column": "t"},
        "series 'a' and 'b' have other steps, 1 and 2",
    ),
    "two columns of ids": (
        "day,p,q\n" + "".join(f"2024-01-0{d},{p},{9 - p}\n" for d in range(1, 4) for p in (1, 2)),
        {},
        "series may be in column 'p' or 'q': say --id_column",
    ),
    "two times": (
        "k,n,m\n" + "".join(f"{i},{n},{2 * n}\n" for i in "ab" for n in range(4)),
        {},
        "times may be in column 'n' or 'm': say --time_column",
    ),
    "unique ids with a gap": (
        "unique_id,ds,y\n" + "".join(f"{i},{n},1\n" for i in "ab" for n in (1, 2, 3, 5)),
        {},
        "series 'a': row 5, column 'ds': 2 usual steps",
    ),
    "a day twice in a table": (
        "d,x\n2024-01-01,1\n2024-01-02,2\n2024-01-02,1\n",
        {},
        "rows 3 and 4 have the same",
    ),
    "irregular days": (
        "d,x\n2024-01-01,1\n2024-01-02,1\n2024-01-03,2\n2024-01-07,1\n",
        {},
        "row 5.*4 usual steps",
    ),
    "between": (
        "d,x\n2024-01-01,1\n2024-01-02,1\n2024-01-03,2\n2024-01-03T07:00,1\n",
        {"repair": True},
        "2024-01-03T07.* is not a whole number of usual steps",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path, name):
    text, asked, complaint = FAULTS[name]
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path, text, **asked)


# Repairs


@given(st.integers(0, 10**6), st.sampled_from(["D", "h", "M", ""]), st.booleans())
@IN_ONE_FOLDER
def test_repairs_undo_what_was_done(tmp_path, seed, unit, twice):
    """Rows out of order, twice, and left out."""
    rng = np.random.default_rng(seed)
    times = np.arange(100, 130).astype(f"datetime64[{unit}]" if unit else float)
    kept = np.sort(rng.permutation(np.arange(1, 29))[:20])
    kept = np.concatenate([[0], kept, [29]])
    rows = [(times[k], k * 1.5) for k in kept for _ in range(1 + twice)]
    rows = [rows[k] for k in rng.permutation(len(rows))]
    panel = read(tmp_path, lines(["t", "x"], *rows), repair=True, missing="interpolate", time_column="t")
    (each,) = panel.series
    np.testing.assert_allclose(each.values[:, 0], 1.5 * np.arange(30), rtol=1e-12)
    np.testing.assert_array_equal(np.flatnonzero(~each.filled[:, 0]), kept)
    np.testing.assert_array_equal(each.times, times)


def test_repairs_are_said_and_missing_values_asked_for(tmp_path):
    text = "d,x\n2024-01-03,3\n2024-01-01,1\n2024-01-02,5\n2024-01-02,6\n2024-01-06,2\n2024-01-07,2\n"
    with pytest.raises(ValueError, match=r"2 missing value.*choose --missing"):
        read(tmp_path, text, repair=True)
    panel = read(tmp_path, text, repair=True, missing="previous")
    assert panel.series[0].values[:, 0].tolist() == [1, 5.5, 3, 3, 3, 2, 2]
    said = " | ".join(panel.notes)
    assert all(part in said for part in ("sorted by time", "1 row(s) of a time", "2 time(s) that lacked"))


def test_holidays_of_business_days_are_rows_that_lack(tmp_path):
    days = np.arange("2024-01-01", "2024-02-01", dtype="datetime64[D]")
    days = days[np.is_busday(days)]
    rows = [(day, n) for n, day in enumerate(days) if n not in (7, 8)]
    panel = read(tmp_path, lines(["d", "x"], *rows), repair=True, missing="interpolate")
    assert panel.frequency == "B" and panel.series[0].values[:, 0].tolist() == list(range(len(days)))


# Covariates


SHOPS = "shop,day,sales,price,guests,city,size\n" + "".join(
    f"{shop},2024-01-{day:02},{day if day < 6 else ''},{day / 4},{day % 3 if day < 6 else ''},{city},{size}\n"
    for shop, city, size in (("A", "Bern", 3), ("B", "Chur", 5))
    for day in range(1, 9)
)
ROLES = {"columns": ("sales",), "known_columns": ("price",), "past_columns": ("guests",), "id_column": "shop"}
ROLES |= {"static_columns": ("city", "size"), "time_column": "day"}


def test_covariates(tmp_path):
    first, second = read(tmp_path, SHOPS, **ROLES).series
    assert (
        first.columns == ("sales",)
        and first.values[:, 0].tolist() == [1, 2, 3, 4, 5]
        and len(first.times) == 5
    )
    assert first.known_names == ("price",) and first.known[:, 0].tolist() == [day / 4 for day in range(1, 9)]
    assert first.past_names == ("guests",) and first.past[:, 0].tolist() == [1, 2, 0, 1, 2]
    assert first.static_names == ("city=Bern", "city=Chur", "size")
    assert first.static.tolist() == [1, 0, 3] and second.static.tolist() == [0, 1, 5]


def test_the_calendar(tmp_path):
    series = read(tmp_path, SHOPS, **ROLES, calendar=True).series[0]
    assert series.known_names == ("price", "weekday_sin", "weekday_cos", "yearday_sin", "yearday_cos")
    assert series.known.shape == (8, 5)
    np.testing.assert_allclose(
        series.known[0, 1:], [0, 1, 0, 1], atol=1e-12
    )  # a Monday, and the year's first
    np.testing.assert_allclose(series.known[7, 1:3], series.known[0, 1:3], atol=1e-12)
    with pytest.raises(ValueError, match="--calendar needs dates"):
        read(tmp_path, "a\n1\n2\n", calendar=True)


COVARIATES = {
    "the time to come": (
        SHOPS.replace("07,,1.75", "07,,"),
        {},
        "series 'A': row 8, column 'price': expected what is known",
    ),
    "before": (SHOPS.replace("03,3,0.75", "03,3,"), {}, "series 'A': .*row 4, column 'price'.*--missing"),
    "known so far": (SHOPS.replace("03,3,0.75,0", "03,3,0.75,"), {}, "series 'A': .*row 4, column 'guests'"),
    "not static": (
        SHOPS.replace("Bern", "Basel", 1),
        {},
        "row 3, column 'city'.*'Basel', got 'Bern': it is not static",
    ),
    "words": (
        SHOPS.replace(",0.25,", ",cheap,", 1),
        {},
        "row 2, column 'price': expected a number, got 'cheap'",
    ),
    "no value yet": (
        SHOPS,
        {"columns": ("sales",), "known_columns": ("price",), "id_column": "day", "time_column": ""},
        "no value, only covariates",
    ),
}


@pytest.mark.parametrize("name", COVARIATES)
def test_covariates_that_lack(tmp_path, name):
    text, asked, complaint = COVARIATES[name]
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path, text, **(ROLES | asked if name != "no value yet" else asked))


# The test part of its own file


def test_a_test_part_of_its_own(tmp_path):
    later = tmp_path / "later.csv"
    later.write_text("V1,V2,V3\nH2,9,8\nH1,7,6\n")
    panel = read(tmp_path, "V1,V2,V3,V4\nH1,1,2,3\nH2,4,5,\n", test_path=later)
    assert [each.name for each in panel.test] == ["H1", "H2"]
    assert [each.values[:, 0].tolist() for each in panel.test] == [[7, 6], [9, 8]]
    later.write_text("V1,V2,V3\nH3,9,8\nH1,7,6\n")
    with pytest.raises(ValueError, match=r"shop.csv has 1 series that .*later.csv has not, such as 'H2'"):
        read(tmp_path, "V1,V2,V3,V4\nH1,1,2,3\nH2,4,5,\n", test_path=later)


@pytest.mark.parametrize(
    "first, complaint", [("08", ""), ("09", "to begin at 2024-01-08"), ("07", "to begin at 2024-01-08")]
)
def test_a_test_part_goes_on_where_its_series_ends(tmp_path, first, complaint):
    later = tmp_path / "later.csv"
    later.write_text(f"day,x\n2024-01-{first},9\n")
    table = lines(["day", "x"], *((f"2024-01-0{day}", day) for day in range(1, 8)))
    if not complaint:
        assert read(tmp_path, table, test_path=later).test[0].values.tolist() == [[9]]
        return
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path, table, test_path=later)


def test_the_hourly_series_of_m4(data_dir):
    train, test = data_dir / "m4" / "Hourly-train.csv", data_dir / "m4" / "Hourly-test.csv"
    if not train.exists():
        pytest.skip("no m4/Hourly-train.csv in LMSEQ_DATA_DIR")
    start = time.process_time()
    panel = read_panel(train, test_path=test)
    assert time.process_time() - start < 1.0
    assert len(panel.series) == 414 and [each.name for each in panel.series[::413]] == ["H1", "H414"]
    lengths = [len(each.values) for each in panel.series]
    assert (min(lengths), max(lengths), sum(lengths)) == (700, 960, 353_500)
    assert [panel.series[n].values[[0, -1], 0].tolist() for n in (0, 413)] == [[605, 684], [15, 17]]
    assert [panel.test[n].values[[0, -1], 0].tolist() for n in (0, 413)] == [[619, 659], [15, 24]]
    assert all(each.values.shape == (48, 1) for each in panel.test)

"""Parts of pages that need no run: their data and size, several as one, and what a browser makes of them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from experiments.series import pages as series_pages
from experiments.series.spread import LEVELS
from experiments.text import pages as text_pages
from experiments.web import document, merging
from experiments.web.document import read_page, write_page
from experiments.web.reading import KINDS, Read, kinds_of, reading_of, spell
from lmseq.alternatives import Alternatives
from lmseq.config import series as series_config
from lmseq.data.series import prepare
from lmseq.data.tokens import Vocab, build_vocab
from tests.browser import Browser


def test_a_page_stays_small_whatever_is_put_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_BYTES", 200_000)
    number = 1000
    model = {"name": "m", "run": 0, "loss": 1.0, "nats": [-1.2345] * number}
    model |= {"ids": [[0, 1, 0, 1, 0]] * number, "id_nats": [[-1.2345] * 5] * number}
    reading = {"symbols": ["a", "b"], "tokens": [0, 1] * (number // 2), "kind_of": [0] * number, "of": number}
    write_page(tmp_path / "page.html", {"title": "large", "readings": [reading | {"models": [model] * 4}]})
    assert (tmp_path / "page.html").stat().st_size < document.MOST_BYTES
    [shown] = read_page(tmp_path / "page.html")["readings"]
    assert number / 3 < len(shown["tokens"]) < number
    assert all(len(each["nats"]) == len(shown["tokens"]) for each in shown["models"])


def forecast(series, column, origins, *, horizon=2, number=10, times=None):
    """A forecast from origins as a page has it, each point of which says from which origin it is."""
    points = [[float(origin)] * horizon for origin in origins]
    model = {"name": "m", "points": points, "bands": [{"label": "b", "low": points, "high": points}]}
    values = [0.5 + place for place in range(number)]
    shown = {"origins": origins, "shown": len(origins), "of": 60, "range": [0, 1], "models": [model]}
    return {"series": series, "column": column, "first": 0, "values": values, "times": times} | shown


def test_a_page_of_forecasts_says_how_many_it_shows(tmp_path, monkeypatch):
    """Of variables their times stand once; origins are left out first, then variables, until it fits."""
    monkeypatch.setattr(document, "MOST_BYTES", 600_000)
    times = [f"2024-01-01T00:00:{place:09}" for place in range(4000)]
    drawn, lists = series_pages._times_once(
        [
            forecast("s", f"c{each}", list(range(1, 61)), horizon=60, number=4000, times=times)
            for each in range(7)
        ]
    )
    assert lists == [times] and {each["times"] for each in drawn} == {0}
    page = {"title": "t", "forecasts": drawn, "times": lists}
    write_page(tmp_path / "page.html", page)
    assert (tmp_path / "page.html").stat().st_size <= document.MOST_BYTES
    found = read_page(tmp_path / "page.html")
    assert found["times"] == [times] and len(found["forecasts"]) == 7
    for each in found["forecasts"]:
        assert each["shown"] == len(each["origins"]) == len(each["models"][0]["points"]) and each["of"] == 60
        assert 2 < each["shown"] < 60
    monkeypatch.setattr(document, "MOST_BYTES", 250_000)
    few = page | {"forecasts": [each | {"times": place} for place, each in enumerate(drawn)]}
    few["times"] = [[f"{place} {each}" for each in times] for place in range(7)]
    write_page(tmp_path / "page.html", few)
    assert (tmp_path / "page.html").stat().st_size <= document.MOST_BYTES
    found = read_page(tmp_path / "page.html")
    assert 1 <= len(found["forecasts"]) < 7
    for each in found["forecasts"]:
        assert found["times"][each["times"]][0] == f"{each['column'][1:]} {times[0]}"


def test_a_table_that_is_too_large_alone_does_not_take_the_forecasts_away(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_BYTES", 100_000)
    drawn = [forecast("s", "c", list(range(1, 61)))]
    write_page(
        tmp_path / "page.html",
        {"title": "t", "table": [{"x": "y" * 200_000}], "forecasts": drawn, "times": []},
    )
    assert read_page(tmp_path / "page.html")["forecasts"] == drawn


def test_forecasts_of_one_series_stand_beside_each_other():
    """Whatever the order that each run has them in, and where one lacks a series that others show."""
    pages = [
        {"forecasts": [forecast("a", "x", [5, 7]), forecast("b", "x", [6]), forecast("c", "x", [3])]},
        {"forecasts": [forecast("c", "x", [3])]},
        {"forecasts": [forecast("b", "x", [6]), forecast("b", "y", [6]), forecast("a", "x", [7, 9])]},
    ]
    found = merging.side_by_side(list(zip(("r0", "r1", "r2"), pages, strict=True)))
    shown = {each["series"]: [model["name"] for model in each["models"]] for each in found}
    assert shown == {"a": ["r0", "r2"], "b": ["r0", "r2"], "c": ["r0", "r1"]}
    for each in found:
        assert each["shown"] == len(each["origins"]) and each["origins"] in ([7], [6], [3])
        assert all(model["points"] == [[float(each["origins"][0])] * 2] for model in each["models"])


def test_a_forecast_is_drawn_with_all_its_steps():
    """However far it reaches; and from its last origin, however few values are drawn."""
    config = series_config.SeriesConfig()
    data = replace(config.data, series="noisy_sine", num_points=1600)
    member = prepare(replace(config, data=data), []).only
    points = np.arange(2 * 500, dtype=np.float64).reshape(2, 500, 1)
    around = points[:, None] + np.arange(len(LEVELS))[None, :, None, None]
    for number, origins in ((1, [900, 1000]), (600, [1000])):
        drawn = series_pages._drawn(member, 0, "m", [900, 1000], points, around, number)
        assert drawn["origins"] == origins and drawn["shown"] == len(origins)
        kept = points[-len(origins) :, :, 0].tolist()
        assert drawn["models"][0]["points"] == kept
        for band in drawn["models"][0]["bands"]:
            assert all(len(row) == 500 for side in ("low", "high") for row in band[side])
        assert drawn["first"] < origins[0] and drawn["first"] + len(drawn["values"]) == 1500


def test_a_run_without_counts_has_a_table():
    summary = {"model": "gru", "vocab_size": 4, "unigram_loss": 1.0, "valid_loss": 0.5}
    shown = text_pages.Shown("train_lm", None, {}, summary, Vocab("ids", tokens=("0", "1")), [])
    assert [row["name"] for row in text_pages.rows_of(shown)] == ["uniform", "unigram", "gru"]


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """A page of four tokens: one model finds the second impossible and has no number for the third."""
    probs = np.array([[0.6, 0.0, np.nan, 0.5], [0.5, 0.1, 0.1, 0.25]])
    with np.errstate(divide="ignore"):
        nats = np.log(probs).astype(np.float32)
    ids = np.zeros((4, 1), np.int32)
    models = [Read(f"m{i}", 0, Alternatives(row, ids, row[:, None]), None) for i, row in enumerate(nats)]
    reading = reading_of(Vocab("ids", tokens=("0", "1")), np.array([0, 1, 0, 1]), 4, models)
    path = tmp_path_factory.mktemp("rare") / "page.html"
    run = {"name": "r", "script": "train_lm", "settings": [], "figures": {}}
    write_page(path, {"title": "t", "runs": [run], "readings": [reading]})
    return path


def test_what_is_impossible_is_kept_apart_from_what_is_no_number(rare):
    first, second = read_page(rare)["readings"][0]["models"]
    assert first["nats"] == [pytest.approx(math.log(0.6), abs=1e-4), None, "nan", second["nats"][0]]
    assert first["id_nats"] == [[each] for each in first["nats"]]


def test_runs_that_cut_a_text_alike_stand_on_one_text():
    def reading(symbols, tokens, ids):
        model = {"name": "", "run": 0, "nats": [0.0] * len(tokens), "ids": ids, "id_nats": ids}
        return {"symbols": symbols, "tokens": tokens, "kind_of": tokens, "models": [model]}

    first = reading(["a", "b"], [0, 1, 0], [[0], [1], [0]])
    second = reading(["b", "a", "c"], [1, 0], [[2], [0]])
    [both] = merging.together([first, second])
    assert [both["symbols"][i] for i in both["tokens"]] == ["a", "b"]
    assert [both["symbols"][row[0]] for row in both["models"][1]["ids"]] == ["c", "b"]
    assert len(merging.together([first, reading(["ab"], [0], [[0]])])) == 1 + 1


def test_kinds_of_tokens():
    names = [KINDS[kind] for kind in kinds_of(["a", "b", " ", "c", "\n", "7", ".", "<unk>", "word", "is "])]
    assert names == [
        "first letter of a word",
        "letter within a word",
        "blank",
        "first letter of a word",
        "line end",
        "number",
        "mark",
        "<unk>",
        "word",
        "word",
    ]


@pytest.mark.parametrize("level", ["byte", "char", "word", "bpe"])
def test_tokens_are_spelt_as_they_stand_in_a_text(level):
    text = "to be, or not\nto be: é\n"
    vocab = build_vocab(text, name="x", level=level, bpe_vocab_size=260)
    spelt = spell(vocab, vocab.encode(text))
    if level == "word":
        assert spelt == text.replace("\n", " \n ").split(" ")[:-1]
    else:
        joined = "".join(spelt)
        assert joined.startswith("to be, or not\nto be: ") and joined.endswith("\n")
    assert spell(Vocab("ids", tokens=("0", "1")), np.array([1, 0])) == ["1", "0"]


# In a browser


def test_what_is_impossible_is_darkest_and_what_is_no_number_is_said(browser: Browser, rare):
    def classes() -> list[str]:
        return browser.value("[...document.querySelectorAll('.text span')].map(e => e.className)")

    browser.open(rare)
    assert classes() == ["", "s5", "none", ""] and "no number" in browser.texts(".legend")[0]
    assert "m0 no number; m1" in browser.texts("#text > div > p.soft")[0]
    browser.value("document.querySelector('.text span').focus()")
    browser.press("n")
    assert browser.value("document.activeElement.dataset.place") == "1"
    assert browser.texts(".token .beside p") == ["0 % (∞ nats)", "10.0 % (2.303 nats)"]
    assert "m1 knows more, by ∞ nats." in browser.texts(".token > p")
    browser.press("ArrowRight")
    assert browser.texts(".token .beside p") == ["no number", "10.0 % (2.303 nats)"]
    assert "Their difference is no number." in browser.texts(".token > p")
    browser.point_at("fieldset label:last-child input", click=True)
    assert classes() == ["a1", "b3", "none", "a1"]
    first, second = browser.texts(".places ol")
    assert first.count("nats") == 2 and "by 0.69 nats" in first and "by 0.18 nats" in first
    assert second.count("nats") == 1 and "by ∞ nats" in second
    mean = "meanLoss({nats: [-1, null, -2].map(natsOf)})"
    assert browser.value(f"fixed({mean}, 4)") == "∞"
    assert browser.complaints == []


def test_places_are_of_the_model_that_knows_more_there(browser: Browser, rare, tmp_path):
    page = read_page(rare)
    better, worse = page["readings"][0]["models"]
    better["nats"], worse["nats"] = [-1.0, -2.0, -3.0, None], [-2.0, -2.5, -3.25, None]
    write_page(tmp_path / "page.html", page)
    browser.open(tmp_path / "page.html")
    assert browser.texts(".places > div > p") == ["no token"]
    [items] = browser.texts(".places ol")
    assert [items.count(f"by {nats} nats") for nats in ("1.00", "0.50", "0.25", "0.00")] == [1, 1, 1, 0]


def test_a_page_says_from_where_its_origins_are(browser: Browser, rare, tmp_path):
    """Of each variable; forecasts that reach less far beside others are drawn as far as they reach."""
    far, short = forecast("s", "c", [4, 6, 8]), forecast("s", "d", [8])
    far["models"] = [far["models"][0], forecast("s", "c", [4, 6, 8], horizon=1)["models"][0] | {"name": "n"}]
    page = read_page(rare) | {"readings": [], "forecasts": [far | {"times": 0}, short]}
    write_page(tmp_path / "page.html", page | {"times": [[f"day {place}" for place in range(10)]]})
    browser.open(tmp_path / "page.html")
    assert "Shown are 3 of 60 origins, spread evenly from 4 to 8." in browser.texts("#forecasts p")[0]
    assert browser.texts("output") == ["origin 1 of 3: after 4 values, day 4"]
    browser.value("document.querySelector('#forecasts select').selectedIndex = 1")
    browser.value("document.querySelector('#forecasts select').dispatchEvent(new Event('change'))")
    assert "Shown is one of 60 origins." in browser.texts("#forecasts p")[0]
    assert browser.texts("output") == ["origin 1 of 1: after 8 values"] and browser.complaints == []


def test_a_table_of_settings_is_sorted(browser: Browser, tmp_path):
    columns = [{"name": "tau", "key": "tau"}, {"name": "loss", "key": "loss", "isNumber": True}]
    columns[1]["interval"] = ["low", "high"]
    rows = [
        {"tau": t, "loss": v, "low": v - 0.1, "high": v + 0.1}
        for t, v in ((1, 0.5), (10, 0.25), (2, None))
        if v is not None
    ] + [{"tau": 2, "loss": None, "low": None, "high": None}]
    run = {"name": "sweep", "script": "ablate", "settings": [], "figures": {}}
    write_page(tmp_path / "page.html", {"title": "t", "runs": [run], "columns": columns, "table": rows})
    browser.open(tmp_path / "page.html")
    for head, expected in ((0, ["1", "2", "10"]), (0, ["10", "2", "1"]), (1, ["10", "1", "2"])):
        browser.value(f"document.querySelectorAll('#table th button')[{head}].click()")
        assert browser.texts("#table tbody td:first-child") == expected
    assert browser.value("document.querySelectorAll('#table th')[1].getAttribute('aria-sort')") == "ascending"
    browser.value("document.querySelectorAll('#table th button')[1].click()")
    assert browser.texts("#table tbody td:first-child") == ["1", "10", "2"]  # what is not known stays last
    browser.value("document.querySelectorAll('#table th button')[1].click()")
    rows = "Array.from({length: 60000}, (_, i) => ({a: i, b: -i, c: 2 * i}))"
    assert browser.value(f"spanOf({{key: 'a', interval: ['b', 'c']}}, {rows})") == [-59999, 119998]
    assert browser.value("document.querySelectorAll('.interval').length") == 2
    assert browser.texts("#table tbody tr:first-child td:last-child") == ["0.2500 [0.1500, 0.3500]"]

"""Pages of runs: what their data says, and what a browser makes of it."""

import json
import math
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.series import pages as series_pages
from experiments.series.spread import LEVELS
from experiments.text import pages as text_pages
from experiments.web import document, merging
from experiments.web.document import read_page, write_page
from experiments.web.reading import KINDS, Read, kinds_of, reading_of, spell
from lmseq import runs, scoring
from lmseq.alternatives import Alternatives
from lmseq.config import series as series_config
from lmseq.contract import scan_unroll
from lmseq.data.series import prepare
from lmseq.data.tokens import Vocab, build_vocab
from tests.browser import Browser, find_browser, opened_browser
from tests.scripts import SMALL, refusal, summary_of

HOSTILE = (
    "</script><script>window.owned = 1</script>\n<img src=x onerror='window.owned = 1'> &lt;b&gt; <!-- \n"
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \x07 tab\there; \"quotes\" 'and' \\u003c ]]> é 文字"
    "😀\n"
)
PLAIN = "the cat sat on the mat, and the dog sat on the cat 42 times.\n"
NAME = "</title><script>window.owned = 1</script>"


def corpus(folder: Path, text: str) -> Path:
    folder.mkdir()
    for name, times in (("train", 60), ("valid", 8), ("test", 4)):
        (folder / f"{name}.txt").write_text(text * times, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, scripts):
    """Folders: a net and counts on a hostile text, counts on another text, and runs on a series.

    Of these one was judged on another part of it, and one does not say what it was judged on.
    """
    root = tmp_path_factory.mktemp("page")
    hostile = corpus(root / "text", PLAIN + HOSTILE)
    flags = [*SMALL, "--num_train_steps=40", "--eval_every=20", "--checkpoint_every=20"]
    scripts.summary("train_lm", f"--workdir={root / 'net'}", f"--corpus={hostile}", *flags)
    counts = ["--level=char", "--order=3", "--discount_fallback"]
    scripts.summary("train_ngram", f"--workdir={root / 'counts'}", f"--corpus={hostile}", *counts)
    shutil.copytree(root / "counts", root / "other")
    facts = (root / "other" / "corpus.json").read_text()
    (root / "other" / "corpus.json").write_text(facts.replace('"sha256": "', '"sha256": "0'))
    series = ["--series=noisy_sine", "--num_points=160", "--max_horizon=8", "--valid_fraction=0.2"]
    scripts.summary("predict_series", f"--workdir={root / 'line'}", "--model=linear", *series)
    for name, line in (("later", '"test_points": 8'), ("blank", '"sha256": ""')):
        shutil.copytree(root / "line", root / name)
        facts = (root / name / "series.json").read_text()
        key = line.partition(":")[0]
        (root / name / "series.json").write_text(re.sub(rf"{key}: [^,\n}}]+", line, facts))
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("there is no Chromium here: install chromium from the system's packages")
    with opened_browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def compared(made, scripts):
    """The page of a net and of counts, and what its command printed."""
    out = made / "compare.html"
    before = time.process_time()
    done = scripts.attempt("page", f"--runs={made / 'net'},{made / 'counts'}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert time.process_time() - before < 3
    assert json.loads(done.stdout)["bytes"] == out.stat().st_size < document.MOST_BYTES
    return out


# What the data says


def test_the_figures_of_a_page_are_the_run_s(made):
    for name in ("net", "counts", "line"):
        data, summary = read_page(made / name / "page.html"), summary_of(made / name)
        [run] = data["runs"]
        shown = run["figures"]
        assert shown == {key: summary[key] for key in shown}
        assert {"valid_loss", "params_digest"} & set(shown) and "wall_seconds" not in shown
        own = next(row for row in data["table"] if row.get("own"))
        for key in ("valid_loss", "test_loss"):
            assert own.get(key) == summary.get(key)
    data, summary = read_page(made / "net" / "page.html"), summary_of(made / "net")
    rows = {row["name"]: row for row in data["table"]}
    assert rows["unigram"]["valid_loss"] == summary["unigram_loss"]
    assert rows["uniform"]["valid_loss"] == math.log(summary["vocab_size"])
    assert rows["gru"]["valid_bits_per_char"] == pytest.approx(summary["valid_bits_per_char"])
    horizon = data["charts"]["horizon"]["curves"][0]
    for k in (1, 4, 16, 64):
        assert horizon["y"][horizon["x"].index(k)] == pytest.approx(summary[f"loss_at_{k}"], rel=1e-5)
    assert data["charts"]["learning"]["curves"][1]["y"][-1] == pytest.approx(summary["valid_loss"], rel=1e-5)
    assert [step for step, _ in data["samples"]["net"]] == [20, 40]


def test_settings_that_differ_come_first(made):
    settings = read_page(made / "net" / "page.html")["runs"][0]["settings"]
    own = ["default" in setting for setting in settings]
    assert own == sorted(own, reverse=True)
    differing = {setting["name"]: setting for setting in settings if "default" in setting}
    assert differing["hidden_size"]["value"] == 16 and differing["hidden_size"]["default"] == 256
    assert "units" in differing["hidden_size"]["meaning"] and "learning_rate" not in differing


def test_the_text_is_read_as_it_was_scored(made):
    [reading] = read_page(made / "net" / "page.html")["readings"]
    run = runs.load_run(made / "net")
    text = (PLAIN + HOSTILE) * 8
    symbols, tokens = reading["symbols"], reading["tokens"]
    assert "".join(symbols[token] for token in tokens) == text[: len(tokens)] and reading["of"] == len(text)
    expected = scoring.score_stream(run.model, run.params, run.vocab.encode(text))
    net, counts = reading["models"]
    np.testing.assert_allclose(net["nats"], expected, atol=2e-4)
    assert net["loss"] == summary_of(made / "net")["valid_loss"] == pytest.approx(-expected.mean(), abs=1e-5)
    assert counts["loss"] == pytest.approx(-np.mean(counts["nats"]), abs=1e-4)
    ids = jnp.asarray(run.vocab.encode(text))[None]
    rows = scan_unroll(run.model, run.params, run.model.init_carry(run.params, 1), ids)[1][0]
    for place in (0, 17, len(tokens) - 2):  # a prediction after each token is of the next
        best = np.argsort(-np.asarray(rows[place]))[:5]
        assert [symbols[i] for i in net["ids"][place + 1]] == spell(run.vocab, best)
        np.testing.assert_allclose(net["id_nats"][place + 1], np.asarray(rows[place])[best], atol=2e-4)


def test_counts_alone_read_the_text_as_counts_beside_a_net(made, compared):
    own = read_page(made / "counts" / "page.html")["readings"][0]["models"][0]
    [reading] = read_page(compared)["readings"]
    assert [model["name"] for model in reading["models"]] == ["net", "counts"]
    assert reading["models"][1]["nats"] == own["nats"]
    spelt = read_page(made / "counts" / "page.html")["readings"][0]["symbols"]
    for place in (0, 5, 100):
        theirs = [reading["symbols"][i] for i in reading["models"][1]["ids"][place]]
        assert theirs == [spelt[i] for i in own["ids"][place]]


def test_a_series_shows_what_was_forecast(made):
    data, summary = read_page(made / "line" / "page.html"), summary_of(made / "line")
    [drawn] = data["forecasts"]
    values, errors = drawn["values"], []
    for origin, points in zip(drawn["origins"], drawn["models"][0]["points"], strict=True):
        came = values[origin - drawn["first"] :][: len(points)]
        errors.append(np.array(points) - came)
    assert len(errors) == summary["num_origins"] == drawn["of"]
    for k in (1, 4):
        rmse = np.sqrt(np.mean([each[k - 1] ** 2 for each in errors]))
        assert rmse == pytest.approx(summary[f"rmse_at_{k}"], rel=1e-4)
        curve = data["charts"]["error"]["curves"][0]
        assert curve["y"][k - 1] == pytest.approx(summary[f"rmse_at_{k}"], rel=1e-5)
    inside = {}
    for band in drawn["models"][0]["bands"]:
        came = [values[origin - drawn["first"] :][:8] for origin in drawn["origins"]]
        inside[band["label"]] = np.mean((np.array(band["low"]) <= came) & (came <= np.array(band["high"])))
    assert inside["central 80 %"] == pytest.approx(summary["coverage_80"], abs=0.005)
    assert inside["central 95 %"] == pytest.approx(summary["coverage_95"], abs=0.005)


# What a page is


@pytest.fixture(scope="module")
def words(tmp_path_factory, compared):
    """A page of a text of words, each of which is markup."""
    text = HOSTILE.replace("\n", " ").split()
    vocab = Vocab("word", tokens=("<unk>", *dict.fromkeys(text)))
    ids = vocab.encode(" ".join(text))
    found = Alternatives(np.full(ids.size, -0.5), ids[:, None], np.full((ids.size, 1), -0.5))
    data = read_page(compared)
    data["readings"] = [reading_of(vocab, ids, ids.size, [Read("words", 0, found, None)])]
    path = tmp_path_factory.mktemp("words") / "page.html"
    write_page(path, data)
    return path


def test_no_text_of_a_corpus_is_markup(made, compared, words):
    for path in (made / "net" / "page.html", compared, words):
        page = path.read_text(encoding="utf-8")
        assert page.count("<script") == page.count("</script") == 2 and "<img" not in page
        assert not any(f'{name}="http' in page for name in ("src", "href"))
    assert "onerror" in words.read_text(encoding="utf-8")


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


def test_what_is_no_page_of_ours_is_not_read(tmp_path):
    path = tmp_path / "page.html"
    assert read_page(path) is None
    for text in ("", "<html>", document.OPENING, f"{document.OPENING}[1]{document.CLOSING}"):
        path.write_text(text)
        assert read_page(path) is None


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


# The script


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--runs={net},{other}", "--out={out}"],
            "net and .*other were judged on different texts",
        ),
        (["--runs={net},{line}", "--out={out}"], "net and .*line are of different data, text and series"),
        (["--runs={line},{later}", "--out={out}"], "different series .*; test_points [0-9]+ and 8"),
        (["--runs={line},{blank}", "--out={out}"], "blank/series.json does not say what .*blank was judged"),
        (["--runs={net}:20"], "expected --out=FILE.html, as .*net/page.html is of the parameters that"),
        (
            ["--runs={net}:best", "--out={net}/page.html"],
            "expected --out=FILE.html, as .*net/page.html is of",
        ),
        (["--runs={line}:nonsense"], "expected the folder of a run at .*line:nonsense, there is none"),
        (["--runs={line}:best", "--out={out}"], "line holds a run of predict_series, .*leave :best out"),
        (["--runs={counts}:20", "--out={out}"], "counts holds a run of train_ngram, .*leave :20 out"),
        (["--runs={net},{counts}"], "expected --out=FILE.html"),
        (["--runs={net}", "--out={text}/page.png"], "expected --out to end in .html"),
        (["--runs={text}"], "text holds no run: it has no config.json"),
        (["--runs={net}/nothing"], "expected the folder of a run at .*nothing, there is none"),
        ([], "expected --runs=FOLDER,FOLDER"),
        (["--runs={net}", "--tokens=0"], "expected tokens of at least 1, got 0"),
    ],
)
def test_mistakes(made, scripts, flags, complaint):
    named = {name: made / name for name in ("net", "counts", "other", "line", "later", "blank", "text")}
    given = [flag.format(**named, out=made / "never.html") for flag in flags]
    _, line = refusal(scripts.attempt("page", *given))
    assert re.search(complaint, line), line
    assert not (made / "never.html").exists()


def test_a_page_that_is_not_of_the_run_any_more_is_made_anew(made, scripts, tmp_path):
    """From the checkpoint, of which another may be named; as long as is asked for."""
    path, stored = made / "net" / "page.html", read_page(made / "net" / "page.html")
    done = scripts.attempt("page", f"--runs={made / 'net'}", "--tokens=100", f"--out={tmp_path / 'a.html'}")
    assert done.returncode == 0 and "read again" not in done.stderr
    short = read_page(tmp_path / "a.html")["readings"][0]
    assert short["models"][0]["nats"] == stored["readings"][0]["models"][0]["nats"][:100]
    path.rename(tmp_path / "kept.html")
    done = scripts.attempt("page", f"--runs={made / 'net'}")
    assert done.returncode == 0 and "read again" in done.stderr
    again = read_page(path)
    first, second = stored["readings"][0]["models"][0], again["readings"][0]["models"][0]
    assert first["loss"] == second["loss"] and first["name"] == second["name"] == "gru"
    np.testing.assert_allclose(first["nats"], second["nats"], atol=2e-3)
    assert again["runs"] == stored["runs"] and again["table"] == stored["table"]
    (tmp_path / "kept.html").replace(path)
    done = scripts.attempt("page", f"--runs={made / 'net'}:20", f"--out={tmp_path / 'b.html'}")
    assert done.returncode == 0, done.stderr
    early = read_page(tmp_path / "b.html")["readings"][0]["models"][0]
    records = [json.loads(line) for line in (made / "net" / "metrics.jsonl").read_text().splitlines()]
    assert early["loss"] == next(each["valid_loss"] for each in records if each["step"] == 20)


# In a browser


def test_pointing_at_a_token_shows_its_probability(browser: Browser, compared):
    browser.open(compared)
    [reading] = read_page(compared)["readings"]
    place = 70
    browser.point_at(f"span[data-place='{place}']")
    shares = browser.texts(".token .share")
    for share, model in zip(shares, reading["models"], strict=True):
        expected = 100 * math.exp(model["nats"][place])
        assert float(share.removesuffix(" %")) == pytest.approx(expected, rel=6e-3)
    likeliest = browser.texts(".token .beside > div:first-child .bars .symbol")
    assert len(likeliest) == 5
    bars = [
        float(text.removesuffix(" %"))
        for text in browser.texts(".token .bars:not(.second) > span:nth-child(3n)")
    ]
    assert bars == pytest.approx(
        [100 * math.exp(n) for n in reading["models"][0]["id_nats"][place]], rel=0.06
    )
    assert f"token {place + 1} of " in browser.texts(".token h3")[0]
    assert browser.complaints == []


def test_a_hostile_text_does_nothing(browser: Browser, made, compared, words):
    for path, place in ((compared, 80), (made / "net" / "page.html", 80), (words, 1)):
        browser.open(path)
        browser.point_at(f"span[data-place='{place}']", click=True)
        assert browser.value("window.owned === undefined && document.images.length === 0")
        assert browser.value("document.scripts.length") == 2
        shown = browser.value("[...document.querySelectorAll('.text span')].map(e => e.textContent).join('')")
        assert "</script><script>window.owned=1</script>" in shown.replace(" ", "")
        assert browser.complaints == [] and browser.requests == [path.resolve().as_uri()]


def test_a_hostile_name_does_nothing(browser: Browser, compared, tmp_path):
    data = read_page(compared)
    data["title"] = NAME
    for run in data["runs"]:
        run["name"] = NAME
        run["settings"][0]["value"] = NAME
    for model in data["readings"][0]["models"]:
        model["name"] = NAME
    data["samples"] = {NAME: [[1, NAME]]}
    write_page(tmp_path / "page.html", data)
    browser.open(tmp_path / "page.html")
    assert browser.value("window.owned === undefined") and browser.value("document.title") == NAME
    assert browser.texts("h1") == [NAME] and browser.complaints == []


def test_a_script_that_is_not_ours_is_not_run(browser: Browser, compared, tmp_path):
    """Even where markup got into a page, its policy lets nothing of it run."""
    page = compared.read_text(encoding="utf-8")
    injected = "<script>window.owned = 1</script><img src='x.png' onerror='window.owned = 1'>"
    (tmp_path / "page.html").write_text(page.replace("<noscript>", f"{injected}<noscript>"), encoding="utf-8")
    try:
        browser.open(tmp_path / "page.html")
    except AssertionError:
        pass  # the browser complains, as it should
    assert browser.value("window.owned === undefined")
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_the_keyboard_goes_through_the_text(browser: Browser, compared):
    browser.open(compared)
    [reading] = read_page(compared)["readings"]
    browser.value("document.querySelector('.text span').focus()")

    def place() -> int:
        return int(browser.value("document.activeElement.dataset.place"))

    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", None), ("Home", 0)):
        browser.press(key)
        assert place() == (len(reading["tokens"]) - 1 if expected is None else expected)
    browser.press("ArrowDown")
    spelt = [reading["symbols"][token] for token in reading["tokens"]]
    assert place() == spelt.index("\n") + 1
    browser.press("n")
    assert reading["models"][0]["nats"][place()] < math.log(0.01)
    assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert browser.value("document.querySelectorAll('.text span[tabindex=\"0\"]').length") == 1
    assert f"token {place() + 1:,} of" in browser.texts(".token h3")[0]


def test_a_difference_says_who_knows_more_and_where(browser: Browser, compared):
    browser.open(compared)
    [reading] = read_page(compared)["readings"]
    browser.point_at("fieldset label:last-child input", click=True)
    first, second = (np.array(model["nats"]) for model in reading["models"])
    more = first - second
    classes = browser.value("[...document.querySelectorAll('.text span')].map(e => e.className)")
    for place, name in enumerate(classes):
        level = sum(abs(more[place]) >= bound for bound in (0.1, 0.7, 2.3))
        assert name == (f"{'a' if more[place] > 0 else 'b'}{level}" if level else "")
    [told] = browser.texts(".sum")
    assert f"by {abs(more.mean()):.4f} nats a token" in told and f"to {100 * (more > 0).mean():.1f} %" in told
    browser.point_at(".places li button", click=True)
    first = (
        np.argmax(more) if np.any(more > 0) else np.argmin(more)
    )  # places stand below who knows more there
    assert int(browser.value("document.activeElement.dataset.place")) == first
    lines = "[...document.querySelectorAll('.text span.a2, .text span.b2')].map(e => getComputedStyle(e)"
    assert set(browser.value(f"{lines}.textDecorationLine)")) <= {"overline", "underline"}


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


def test_curves_are_read_off(browser: Browser, made):
    browser.open(made / "net" / "page.html")
    summary = summary_of(made / "net")
    browser.value("document.querySelectorAll('.chart svg[role=img]')[1].focus()")
    browser.press("End")
    [_, told] = browser.texts(".told")
    assert told.startswith("k, tokens ahead 64:") and f"{summary['loss_at_64']:.4g}"[:4] in told
    browser.point_at(".key button", click=True)
    assert browser.value("document.querySelector('.key button').getAttribute('aria-pressed')") == "false"
    assert browser.complaints == []


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


def test_forecasts_are_gone_through_origin_by_origin(browser: Browser, made):
    browser.open(made / "line" / "page.html")
    [drawn] = read_page(made / "line" / "page.html")["forecasts"]
    browser.value("document.querySelector('input[type=range]').focus()")
    for _ in range(3):
        browser.press("ArrowRight")
    assert (
        f"origin 4 of {len(drawn['origins'])}: after {drawn['origins'][3]} values"
        in browser.texts("output")[0]
    )
    browser.value("document.querySelector('#forecasts .chart svg[role=img]').focus()")
    browser.press("End")
    told = browser.texts("#forecasts .told")[0]
    assert f"linear {drawn['models'][0]['points'][3][-1]:.4g}"[:11] in told and "what came" in told
    assert browser.complaints == []


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


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["compare.html", "net/page.html", "line/page.html"])
def test_a_page_fits_its_window_by_day_and_by_night(browser: Browser, made, compared, tmp_path, name, width):
    grounds = []
    for dark in (False, True):
        browser.open(made / name, width, 900, dark=dark)
        assert browser.value("document.documentElement.scrollWidth") <= width
        grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
        assert browser.picture(tmp_path / "page.png")[:4] == b"\x89PNG"
        assert browser.value(CONTRAST) >= 4.5
        assert browser.complaints == []
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


# The least contrast (WCAG 2) of a text with its ground, over what stands on the page.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] === 255) return c; } return [255, 255, 255]; };
  const seen = new Map();
  for (const e of document.querySelectorAll("body *:not(script):not(svg):not(svg *)")) {
    if (![...e.childNodes].some((c) => c.nodeType === 3 && c.data.trim())) continue;
    const key = getComputedStyle(e).color + ground(e);
    if (!seen.has(key)) { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
      seen.set(key, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)); }
  }
  return Math.min(...seen.values());
})()"""

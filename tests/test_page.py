"""Pages of runs: what their data says, and what a browser makes of it."""

import json
import math
import re
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.web import document
from experiments.web.document import read_page, write_page
from experiments.web.reading import Read, reading_of, spell
from lmseq import runs, scoring
from lmseq.alternatives import Alternatives
from lmseq.contract import scan_unroll
from lmseq.data.tokens import Vocab
from tests.browser import Browser
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
def compared(made, scripts):
    """The page of a net and of counts, and what its command printed."""
    out = made / "compare.html"
    flags = f"--runs={made / 'net'},{made / 'counts'}", f"--out={out}"
    done = scripts.attempt("page", *flags)  # which also imports what pages are made with, and checks types
    before = time.process_time()
    assert scripts.attempt("page", *flags).returncode == done.returncode == 0, done.stderr
    assert time.process_time() - before < 3
    assert "read again" not in done.stderr, "what a page of several runs shows is on the page of each"
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


def test_what_is_no_page_of_ours_is_not_read(tmp_path):
    path = tmp_path / "page.html"
    assert read_page(path) is None
    for text in ("", "<html>", document.OPENING, f"{document.OPENING}[1]{document.CLOSING}"):
        path.write_text(text)
        assert read_page(path) is None


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


def test_records_that_were_edited_are_one_line(made, scripts, tmp_path):
    shutil.copytree(made / "net", tmp_path / "net")
    (tmp_path / "net" / "page.html").unlink()
    (tmp_path / "net" / "summary.json").write_text("{}")
    _, line = refusal(scripts.attempt("page", f"--runs={tmp_path / 'net'}"))
    assert re.search("summary.json or page.html in .*net is damaged", line), line
    assert not (tmp_path / "net" / "page.html").exists()


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

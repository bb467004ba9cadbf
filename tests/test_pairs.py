"""Pairs of texts against a count by hand, many texts against each by itself, and the grammar's own pairs."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.frame.intervals import proportion
from experiments.text.pairs import Pair, judge, read_pairs
from lmseq import scoring
from lmseq.data import sources
from lmseq.models.sources import put_source
from tests.oracles import small
from tests.scripts import SMALL, refusal

LINES = [
    "the tide is out\tthe tide is X\tend",
    "",
    "it rains\tit\tend",
    "we go\twe\tbegin",
    "out\tin",
    "go\tog",
]


def test_accuracy_is_what_a_count_by_hand_gives(tmp_path):
    (tmp_path / "pairs.tsv").write_text("\n".join(LINES))
    pairs = read_pairs(tmp_path / "pairs.tsv")
    assert pairs[0] == Pair("the tide is out", "the tide is X", "end") and len(pairs) == 5
    of = {
        "the tide is out": -9.0,
        "the tide is X": -8.0,
        "it rains": -3.0,
        "it": -4.0,
        "we go": -5.0,
        "we": -5.0,
    }
    of |= {"out": -1.0, "in": -math.inf, "go": -math.inf, "og": -math.inf}
    found = judge(pairs, lambda texts: [of[text] for text in texts])
    assert [(group, each["num_pairs"], each["num_ties"]) for group, each in found.items()] == [
        ("end", 2, 0),
        ("begin", 1, 1),
        ("all", 5, 2),
    ]
    assert [each["accuracy"] for each in found.values()] == [0.5, 0.5, (0 + 1 + 0.5 + 1 + 0.5) / 5]


@pytest.mark.parametrize("successes, number", [(0, 1), (1, 1), (3, 7), (500, 500), (0, 20)])
def test_the_interval_is_wilsons(successes, number):
    found = proportion(successes, number)
    expected = stats.binomtest(successes, number).proportion_ci(method="wilson")
    np.testing.assert_allclose(found, (successes / number, *expected), atol=1e-12)


@pytest.mark.parametrize("kind", ["gru", "trigram of lines"])
def test_many_texts_are_scored_as_each_by_itself(kind, monkeypatch):
    model, params = small(kind)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 3, length).astype(np.int32) for length in (1, 40, 2, 16, 17, 3, 33, 16)]
    for most in (2**24, 3 * 32 * 2):  # all rows at once, and two of them
        monkeypatch.setattr(scoring, "MOST_ENTRIES", most)
        found = scoring.score_texts(model, params, texts)
        for text, log_probs in zip(texts, found, strict=True):
            np.testing.assert_allclose(
                log_probs, scoring.score(model, params, jnp.asarray(text)), rtol=1e-4, atol=1e-5
            )
    with pytest.raises(ValueError, match="empty"):
        scoring.score_texts(model, params, [texts[0], texts[0][:0]])
    assert scoring.score_texts(model, params, []) == []


def test_pairs_of_the_grammar_agree_and_the_source_itself_is_always_right():
    grammar = sources.make_grammar(2, 3, 2, (2, 4), agreement_share=0.3)
    right, wrong = sources.agreement_pairs(np.random.default_rng(0), grammar, 4, 50)
    assert right.shape == wrong.shape == (50, 6)
    assert (right != wrong).sum(axis=1).tolist() == 50 * [1]
    numbers = [np.isin(right[:, 0], grammar.subjects[n]) for n in (0, 1)]
    for number in (0, 1):
        assert numbers[number].any()
        assert np.isin(right[numbers[number], 4], grammar.agreeing[number]).all()
        assert np.isin(wrong[numbers[number], 4], grammar.agreeing[1 - number]).all()
    model, params = put_source(grammar.source)
    likely, impossible = (
        scoring.sequence_log_probs(model, params, jnp.asarray(each, jnp.int32)).sum(axis=1)
        for each in (right, wrong)
    )
    assert np.isfinite(likely).all() and not np.isfinite(impossible).any()
    with pytest.raises(ValueError, match="distance"):
        sources.agreement_pairs(np.random.default_rng(0), grammar, 0, 5)


@pytest.fixture(scope="module")
def written(tmp_path_factory, scripts):
    """A text of the grammar with its pairs, a net and counts of it."""
    folder = tmp_path_factory.mktemp("grammar")
    flags = ["--num_words=20000", "--distances=2,5", "--num_pairs=40"]
    summary = scripts.summary("write_grammar", f"--out={folder / 'text'}", *flags)
    assert summary["num_pairs"] == 80 and summary["symbols"] == 46
    corpus = [f"--corpus={folder / 'text'}", "--level=word"]
    small = [*SMALL, "--num_train_steps=20"]
    scripts.summary("train_lm", f"--workdir={folder / 'net'}", *corpus, *small)
    more = ["--order=3", "--discount_fallback"]
    scripts.summary("train_ngram", f"--workdir={folder / 'counts'}", *corpus, *more)
    return folder


@pytest.mark.parametrize("run", ["net", "counts"])
@pytest.mark.parametrize("context", ["", "one-0 does-1 .\n", "noun0-1"])
def test_score_text_judges_pairs_by_the_scores_of_each_text(written, scripts, run, context):
    flags = [f"--run={written / run}", *([f"--context={context}"] if context else [])]
    lines = (written / "text" / "pairs.tsv").read_text().splitlines()[::8]
    right = {}
    for line in lines[::3]:
        better, worse, group = line.split("\t")
        both = scripts.summary("score_text", *flags, f"--text={better}", f"--text={worse}")["texts"]
        of = {each["text"]: each["log_likelihood"] for each in both}
        right.setdefault(group, []).append(of[better] > of[worse])
    (written / "few.tsv").write_text("\n".join(lines[::3]))
    found = scripts.summary("score_text", *flags, f"--pairs={written / 'few.tsv'}")
    assert {group: each["accuracy"] for group, each in found["groups"].items()} == {
        group: np.mean(each) for group, each in right.items()
    }
    assert found["num_pairs"] == len(lines[::3]) and found["num_ties"] == 0


def test_lines_without_line_ends_are_scored_each_by_itself(written, scripts, tmp_path):
    """Letters alone: line ends are no words, and a text still begins a line of its own."""
    flags = ["--order=2", "--discount_fallback", "--normalize=letters", "--level=word"]
    scripts.summary("train_ngram", f"--workdir={tmp_path / 'run'}", f"--corpus={written / 'text'}", *flags)
    lines = ["one-0 does-1 .\tone-0 noun0-1 .", "many-2 do-1\tdo-1 many-2 and"]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    for context in ("", "--context=noun0-1 .\n"):
        given = [f"--run={tmp_path / 'run'}", *([context] if context else [])]
        found = scripts.summary("score_text", *given, f"--pairs={tmp_path / 'pairs.tsv'}")
        right = []
        for line in lines:
            texts = line.split("\t")
            both = scripts.summary("score_text", *given, *(f"--text={text}" for text in texts))["texts"]
            of = {each["text"]: each["log_likelihood"] for each in both}
            right.append(of[texts[0]] > of[texts[1]])
        assert found["accuracy"] == np.mean(right)


def test_counts_cannot_reach_farther_than_their_order(written, scripts):
    found = scripts.summary("score_text", f"--run={written / 'counts'}", f"--pairs={written}/text/pairs.tsv")
    assert found["groups"]["distance 2"]["accuracy"] == 1.0
    assert 0.3 < found["groups"]["distance 5"]["accuracy"] < 0.7


def test_figures_by_byte_and_by_word(written, scripts):
    """At level word, perplexity by word is perplexity; bytes are those of UTF-8."""
    scored = scripts.summary("score_text", f"--run={written / 'counts'}", "--text=noun0-1 verb0-2 .\nmany-0")
    assert scored["num_words"] == scored["num_tokens"] == 6
    assert math.isclose(scored["perplexity_per_word"], scored["perplexity"])
    scored = scripts.summary("score_text", f"--run={written / 'net'}", "--text=noun0-1 é .")
    assert (scored["num_chars"], scored["num_bytes"]) == (11, 12)
    assert math.isclose(12 * scored["bits_per_byte"], 11 * scored["bits_per_char"])


@pytest.mark.parametrize(
    "flags, says",
    [
        ("score_text --run={run} --pairs={folder}/one.tsv", "line 2 of"),
        ("score_text --run={run} --pairs={folder}/four.tsv", "got 4 columns"),
        ("score_text --run={run} --pairs={folder}/same.tsv", "two different texts"),
        ("score_text --run={run} --pairs={folder}/blank.tsv", "empty lines only"),
        ("score_text --run={run} --pairs={folder}/all.tsv", "another group than all"),
        ("score_text --run={run} --pairs={folder}/none.tsv", "none.tsv"),
        ("score_text --run={run} --pairs={folder}/good.tsv --text=a", "--text and --pairs"),
        ("score_text --run={run} --pairs={folder}/good.tsv --per_token", "--per_token"),
        ("score_text --run={run} --pairs={folder}/good.tsv --context=nothing", "--context has what"),
        ("write_grammar --num_words=10", "--out"),
        ("write_grammar --out={folder}", "exists"),
        ("write_grammar --out={folder}/new --distances=2,2", "each once"),
        ("write_grammar --out={folder}/new --distances=1", "at least 2"),
        ("write_grammar --out={folder}/new --num_words=0", "num_words"),
        ("write_grammar --out={folder}/new --num_classes=1000000000", "num_classes"),
        ("write_grammar --out={folder}/new --distances=99999999999", "distances"),
    ],
)
def test_a_mistake_is_one_line(written, scripts, tmp_path, flags, says):
    for name, text in {
        "one": "a\tb\nc",
        "four": "a\tb\tc\td",
        "same": "a\ta",
        "blank": "\n\n",
        "all": "a\tb\tall",
        "good": "one-0\tone-1",
    }.items():
        (tmp_path / f"{name}.tsv").write_text(text)
    script, *given = flags.format(run=written / "net", folder=tmp_path).split()
    assert says in refusal(scripts.attempt(script, *given))[1]
    assert not (tmp_path / "new").exists()

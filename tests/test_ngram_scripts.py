"""train_ngram, mix_models, and score_text and sample_text of what they write, as a user runs them."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from lmseq import runs
from lmseq.data.corpora import read_corpus
from lmseq.data.tokens import build_vocab
from lmseq.ngram.arpa import read_arpa
from lmseq.training import checkpoint
from tests.scripts import SMALL, refusal

GOLDEN = Path(__file__).parent / "golden"
LINES = [
    "the ferry leaves the island at nine and the tide is low",
    "we wait for the ferry on the island",
    "no one waits for the low tide",
    "naïve words , café words",
    "",
    "the island is high and the tide is low",
]
TEXT = "\n".join(LINES[i % 6] if i % 7 else f"{LINES[i % 6]} {i % 5}" for i in range(150)) + "\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def words(scripts, corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("words") / "run"
    flags = ["--level=word", "--order=3", "--discount_fallback", "--kenlm_compat", "--write_arpa"]
    return scripts.summary("train_ngram", f"--corpus={corpus}", *flags, f"--workdir={workdir}"), workdir


@pytest.fixture(scope="module")
def characters(scripts, corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("characters") / "run"
    flags = ["--order=4", "--discount_fallback", f"--workdir={workdir}"]
    return scripts.summary("train_ngram", f"--corpus={corpus}", *flags), workdir


def test_a_run_of_words(words, corpus):
    summary, workdir = words
    assert summary == json.loads((workdir / "summary.json").read_text())
    written = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
    assert written == {
        "config.json", "corpus.json", "vocab.json", "tables.npz", "model.arpa", "orders.png", "summary.json",
        "page.html",
    }  # fmt: skip
    assert [row["order"] for row in summary["by_order"]] == [1, 2, 3]
    assert summary["num_ngrams"][0] == summary["vocab_size"] + 1  # <s>, which is no symbol
    assert 1.0 < summary["test_perplexity"] < summary["by_order"][0]["valid_perplexity"]
    assert math.log(summary["test_perplexity"]) == pytest.approx(summary["test_loss"])
    assert summary["peak_memory_bytes"] > 0


def test_the_vocabulary_is_the_one_of_the_neural_models(words, corpus):
    """Read in pieces of bytes or as a whole text: the same splits, the same symbols in the same order."""
    _, workdir = words
    whole = runs.load_run(workdir)
    facts = json.loads((workdir / "corpus.json").read_text())
    text = read_corpus(corpus).parts["all"]
    train = text[: facts["train"]["characters"]]
    assert whole.vocab == build_vocab(train, level="word")
    assert sum(facts[split]["characters"] for split in ("train", "valid", "test")) == len(text)


def test_a_finished_run_is_reprinted_and_another_config_refused(scripts, words, corpus):
    summary, workdir = words
    flags = ["--level=word", "--order=3", "--discount_fallback", "--kenlm_compat", "--write_arpa"]
    assert scripts.summary("train_ngram", f"--corpus={corpus}", *flags, f"--workdir={workdir}") == summary
    done = scripts.run("train_ngram", f"--corpus={corpus}", *flags[:-1], f"--workdir={workdir}")
    assert done.returncode == 2
    assert "write_arpa: True -> False" in done.stderr


def test_the_arpa_file_is_the_run(scripts, words):
    """Scored through the tables and through the file; the tables' symbols include what ends a line."""
    _, workdir = words
    text = "the tide is low\nwe wait for nobody"
    of_run, of_file = (
        scripts.summary("score_text", f"--run={path}", f"--text={text}")
        for path in (workdir, workdir / "model.arpa")
    )
    assert of_run["num_tokens"] == 10
    assert of_run["log_likelihood"] == pytest.approx(of_file["log_likelihood"], abs=1e-5)


def test_an_arpa_file_of_another_tool(scripts):
    """log10 of the sentences, by the reference tool: see test_smoothing.py."""
    text = "the ferry leaves the harbour at nine\nwe wait\n\nunknown unknown island\n"
    found = scripts.summary("score_text", f"--run={GOLDEN / 'small.arpa'}", f"--text={text}")
    expected = math.log(10) * (-7.540829 - 2.139674 - 1.0445492 - 7.144201)
    assert found["log_likelihood"] == pytest.approx(expected, abs=1e-5)
    sampled = scripts.summary(
        "sample_text", f"--run={GOLDEN / 'small.arpa'}", "--prompt=the ferry", "--num_tokens=5"
    )
    known = {*read_arpa(GOLDEN / "small.arpa").words, "<unk>"}
    assert set(sampled["samples"][0]["text"].split()) <= known


def test_the_texts_unk_is_a_word_and_unknown_words_are_not(scripts, tmp_path):
    """As the reference tool scores them; the figures of train_ngram and of score_text are the same."""
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "train.txt").write_text("the <unk> is low\nthe tide is <unk>\n" * 20)
    (folder / "valid.txt").write_text("the tide is low\n")
    (folder / "test.txt").write_text("the <unk> is strange\nstrange <unk>\n")
    flags = [f"--corpus={folder}", "--level=word", "--order=3", "--discount_fallback"]
    done = scripts.run("train_ngram", *flags, f"--workdir={tmp_path / 'run'}")
    made = json.loads(done.stdout.splitlines()[-1])
    lacks = "text: 2 of 8 test tokens (25.00%) are not in the training text, and are scored as <unk>"
    assert lacks in done.stderr.splitlines() and "valid tokens" not in done.stderr
    scored = scripts.summary("score_text", f"--run={tmp_path / 'run'}", f"--file={folder / 'test.txt'}")
    assert scored["num_unknown"] == made["test_num_unknown"] == 2
    assert scored["perplexity"] == pytest.approx(made["test_perplexity"])
    assert scored["perplexity_known"] == pytest.approx(made["test_perplexity_known"])


def test_characters_are_sampled_and_searched(scripts, characters):
    _, workdir = characters
    for more in (["--num_samples=2"], ["--beam_size=3"]):
        flags = ["--prompt=the ", "--num_tokens=20", *more]
        sampled = scripts.summary("sample_text", f"--run={workdir}", *flags)
        for sample in sampled["samples"]:
            assert sample["text"].startswith("the ")
            assert sample["log_likelihood"] < 0.0


def test_memory_bound_by_files(scripts, corpus, words, tmp_path):
    """The same model from tables that lie in files, which are gone when it is made."""
    summary, workdir = words
    flags = ["--level=word", "--order=3", "--discount_fallback", "--kenlm_compat", "--memory=64M"]
    found = scripts.summary("train_ngram", f"--corpus={corpus}", *flags, f"--workdir={tmp_path / 'run'}")
    for name in ("num_ngrams", "discounts", "valid_loss", "test_loss", "by_order"):
        assert found[name] == summary[name]
    left, right = (np.load(path / "tables.npz") for path in (tmp_path / "run", workdir))
    for name in left.files:
        np.testing.assert_array_equal(left[name], right[name])
    assert not (tmp_path / "run" / ".scratch").exists()


@pytest.mark.parametrize(
    ("smoothing", "more"),
    [
        ("maximum_likelihood", []),
        ("epsilon", []),
        ("epsilon_unigram", ["--epsilons=1,0.5"]),
        ("stupid_backoff", []),
        ("modified_kneser_ney", ["--prune=0,0,1", "--discount_fallback", "--min_count=2", "--level=word"]),
    ],
)
def test_estimators(scripts, corpus, tmp_path, smoothing, more):
    flags = [f"--smoothing={smoothing}", "--order=3", f"--workdir={tmp_path / 'run'}"]
    found = scripts.summary("train_ngram", f"--corpus={corpus}", *flags, *more)
    assert len(found["num_ngrams"]) == 3
    if smoothing == "stupid_backoff":
        assert found["test_mean_log_score"] < 0.0
        assert "test_perplexity" not in found
    elif smoothing == "maximum_likelihood":
        assert found["test_perplexity"] is None  # infinite, which JSON cannot say
    else:
        assert found["test_perplexity"] > 1.0
    if smoothing == "epsilon":
        assert len(found["epsilons"]) == 3
    assert scripts.summary("score_text", f"--run={tmp_path / 'run'}", "--text=the tide")["num_tokens"] > 0


def test_a_mixture_beats_its_parts(scripts, characters, corpus, tmp_path):
    _, workdir = characters
    neural = tmp_path / "neural"
    scripts.summary("train_lm", *SMALL, f"--corpus={corpus}", "--num_train_steps=60", f"--workdir={neural}")
    for name, cache in (("mixed", 0), ("cached", 30)):
        flags = [f"--runs={workdir},{neural}", f"--cache_size={cache}", f"--workdir={tmp_path / name}"]
        found = scripts.summary("mix_models", *flags)
        assert sum(found["weights"]) == pytest.approx(1.0)
        assert found["valid_loss"] <= min(found[f"valid_loss_{part}"] for part in ("run", "neural")) + 1e-6
        assert scripts.summary("mix_models", *flags) == found
        again = [f"--runs={tmp_path / name},{workdir}", f"--workdir={tmp_path / 'again'}"]
        assert "not a mixture" in scripts.attempt("mix_models", *again).stderr
        text = "the tide is low"
        scored = scripts.summary("score_text", f"--run={tmp_path / name}", f"--text={text}")
        assert scored["num_tokens"] == len(text)
        assert "text" in scripts.summary(
            "sample_text", f"--run={tmp_path / name}", "--prompt=the", "--num_tokens=5"
        )["samples"][0]  # fmt: skip


def test_a_mixture_moves_with_its_parts(scripts, characters, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(characters[1], old / "run")
    flags = "--runs={0}/run --cache_size=30 --workdir={0}/mixed"
    found = scripts.summary("mix_models", *flags.format(old).split())
    digest = checkpoint.digest(runs.load_run(old / "mixed").params)
    old.rename(new)
    assert checkpoint.digest(runs.load_run(new / "mixed").params) == digest
    assert scripts.summary("mix_models", *flags.format(new).split()) == found
    mixture = json.loads((new / "mixed" / "mixture.json").read_text())
    mixture["runs"][0]["path"] = str(new / "run")  # as earlier versions wrote it
    (new / "mixed" / "mixture.json").write_text(json.dumps(mixture))
    assert checkpoint.digest(runs.load_run(new / "mixed").params) == digest
    (new / "run").rename(new / "away")
    with pytest.raises(ValueError, match="move them together, or mix again"):
        runs.load_run(new / "mixed")


@pytest.mark.parametrize(
    ("script", "flag", "what"),
    [
        ("score_text", "--text=the <s>", "--text has the word <s>, which is kept for the beginning"),
        ("score_text", "--file={file}", "marks.txt has the word <eos>, which is kept for the end of a line"),
        ("sample_text", "--prompt=the </s> ", "the prompt has the word </s>, which is kept for the end"),
    ],
)
def test_marks_are_no_words_of_a_text(scripts, tmp_path, script, flag, what):
    (tmp_path / "marks.txt").write_text("the ferry <eos>\n")
    flags = [f"--run={GOLDEN / 'small.arpa'}", flag.format(file=tmp_path / "marks.txt")]
    assert what in refusal(scripts.attempt(script, *flags))[1]


def test_the_unknown_word_is_sampled_only_when_asked_for(scripts, tmp_path):
    """Where it is all there is, one line says so, of samples and of beams."""
    for name, end in (("some", -0.5), ("none", -99)):
        lines = ["\\data\\", "ngram 1=3", "\\1-grams:", "-0.2\t<UNK>", "-99\t<s>", f"{end}\t</s>", "\\end\\"]
        (tmp_path / name).write_text("\n".join(lines))
    flags = [f"--run={tmp_path / 'some'}", "--num_tokens=3"]
    done = scripts.attempt("sample_text", *flags, "--num_samples=20")
    assert {sample["text"] for sample in json.loads(done.stdout.splitlines()[-1])["samples"]} == {"\n\n\n"}
    for more in ("--num_samples=1", "--beam_size=2"):
        last = refusal(scripts.attempt("sample_text", f"--run={tmp_path / 'none'}", "--num_tokens=3", more))[
            1
        ]
        assert "can go on with <unk> only: give --allow_unknown" in last
    done = scripts.attempt("sample_text", *flags, "--num_samples=20", "--allow_unknown")
    assert "<unk>" in done.stdout


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ([], "expected --workdir=DIR"),
        (["--workdir=W", "--corpus=nowhere"], "check the path"),
        (["--workdir=W", "--order=0"], "order of at least 1"),
        (["--workdir=W", "--corpus=EMPTY"], "empty file"),
        (["--workdir=W", "--corpus=EMPTY", "--level=word"], "train part"),
        (["--workdir=W", "--corpus=TEXT", "--level=word", "--order=30"], "order from 1 to 15"),
        (["--workdir=W", "--corpus=TEXT", "--level=word"], "give --discount_fallback"),
        (["--workdir=W", "--corpus=TEXT", "--smoothing=epsilon", "--valid_fraction=0"], "give --epsilons"),
        (["--workdir=W", "--corpus=TEXT", "--memory=1K"], "at least 64M"),
        (["--workdir=W", "--corpus=LATIN", "--level=word"], "expected UTF-8"),
        (
            ["--workdir=W", "--corpus=EOS", "--level=word"],
            "the train part of eos.txt has the word <eos>, which is kept for",
        ),
    ],
)
def test_mistakes_are_one_line(scripts, corpus, tmp_path, flags, what):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(("é " * 50).encode("latin-1"))
    places = {"W": tmp_path / "w", "TEXT": corpus, "EMPTY": tmp_path / "empty.txt"}
    places |= {"LATIN": tmp_path / "latin.txt", "EOS": tmp_path / "eos.txt"}
    places["EOS"].write_text("a b <eos>\n" * 50)
    given = [f"{f.split('=')[0]}={places.get(f.split('=')[1], f.split('=')[1])}" for f in flags]
    done = scripts.attempt("train_ngram", *given)
    assert what in refusal(done)[1]


def test_a_flag_that_was_missing_can_be_given_in_the_same_folder(scripts, corpus, tmp_path):
    flags = [f"--workdir={tmp_path / 'w'}", f"--corpus={corpus}", "--level=word"]
    assert "give --discount_fallback" in refusal(scripts.attempt("train_ngram", *flags))[1]
    assert scripts.summary("train_ngram", *flags, "--discount_fallback")["test_perplexity"] > 1


def test_what_cannot_be_mixed(scripts, characters, words, corpus, tmp_path):
    _, chars = characters
    other = tmp_path / "other"
    scripts.summary("train_ngram", f"--corpus={corpus}", "--valid_fraction=0.2", "--discount_fallback",
                    f"--workdir={other}")  # fmt: skip
    for paths, what in (
        ([chars], "two or more"),
        ([chars, tmp_path], "but there is none"),
        ([chars, other], "different texts (train, valid)"),
        ([chars, words[1]], "different"),
    ):
        flags = [f"--runs={','.join(map(str, paths))}", f"--workdir={tmp_path / 'w'}"]
        done = scripts.attempt("mix_models", *flags)
        assert done.returncode == 2
        assert what in done.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": 3}', '{"runs": [], "caches": [], "weights": [1]}'])
def test_a_damaged_mixture(tmp_path, text):
    (tmp_path / "config.json").write_text('{"runs": "a,b"}')
    (tmp_path / "mixture.json").write_text(text)
    with pytest.raises(ValueError, match=r"mixture\.json is damaged"):
        runs.load_run(tmp_path)


def test_damaged_files_are_named(scripts, characters, tmp_path):
    broken = shutil.copytree(characters[1], tmp_path / "run")
    data = (broken / "tables.npz").read_bytes()
    (broken / "tables.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "m.arpa").write_text((GOLDEN / "small.arpa").read_text()[:5000])
    for path, what in ((broken, "tables.npz is damaged"), (tmp_path / "m.arpa", "m.arpa, line ")):
        done = scripts.attempt("score_text", f"--run={path}", "--text=the")
        assert done.returncode == 2
        assert what in done.stderr
        assert len(done.stderr.splitlines()) == 1

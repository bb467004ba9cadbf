"""Training on token stores, and long texts that become stores by themselves."""

import json

import jax
import numpy as np
import pytest

from experiments import train_lm
from experiments.frame.experiment import call_from_texts
from experiments.text import loading, preparing
from experiments.text.preparing import kept_store
from lmseq.config.language_model import DataConfig, ModelConfig
from lmseq.config.text import TextConfig
from lmseq.config.training import TrainConfig
from lmseq.data.documents import find_source
from lmseq.data.store_writer import prepare_store
from lmseq.data.texts import load_texts
from lmseq.models.build import build_model
from lmseq.training.fit import fit
from lmseq.training.job import Batches
from tests.scripts import SMALL, refusal

TEXT = "the tide is low and we wait\nnobody asks why the ferry is late\n" * 40


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


def store_of(book, **settings):
    out = book.parent / "store"
    prepare_store(out, find_source(str(book)), TextConfig(**settings))
    return out


@pytest.fixture
def nano(tmp_path):
    folder = tmp_path / "nano"
    folder.mkdir()
    for name, size in (("train", 900), ("val", 60)):
        (np.arange(size) * 7 % 300).astype("<u2").tofile(folder / f"{name}.bin")
    return folder


def test_a_store_gives_the_settings_that_it_was_made_with(book, tmp_path):
    store = store_of(book, level="word", valid_fraction=0.1, min_count=2)
    flags = {"corpus": str(store), "workdir": str(tmp_path / "run")}
    call = call_from_texts(train_lm.EXPERIMENT, flags)
    data = call.config.data
    assert (data.level, data.valid_fraction, data.min_count) == ("word", 0.1, 2)
    # A preset is for another text; a flag that says the same is no contradiction.
    call = call_from_texts(train_lm.EXPERIMENT, flags | {"preset": "shakespeare_cpu", "level": "word"})
    assert (call.config.data.level, call.config.data.valid_fraction) == ("word", 0.1)
    texts = loading.load_texts(call.config.data, call.given)
    assert texts.facts() == load_texts(TextConfig(str(book), "word", valid_fraction=0.1, min_count=2)).facts()


def cut_short(store):
    with (store / "valid.bin").open("r+b") as file:
        file.truncate(1)


def with_another_vocabulary(store):
    (store / "vocab.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "flags", "message"),
    [
        (None, ["--level=word"], "is a store made with --level=char, got other settings: leave them out"),
        (None, ["--valid_fraction=0.2"], "is a store made with --valid_fraction=0.05, got other settings"),
        (cut_short, [], "valid.bin, got 1: make the store again"),
        (with_another_vocabulary, [], "is not the vocabulary that the store was made with"),
    ],
)
@pytest.mark.parametrize("script", ["train_lm", "train_ngram"])
def test_mistakes(scripts, book, tmp_path, script, harm, flags, message):
    store = store_of(book)
    if harm:
        harm(store)
    done = scripts.attempt(script, f"--corpus={store}", f"--workdir={tmp_path / 'run'}", *flags)
    assert message in refusal(done)[1] and not (tmp_path / "run").exists()


def test_a_run_on_a_text_goes_on_with_its_store(scripts, book, tmp_path):
    workdir, flags = tmp_path / "run", [*SMALL, "--num_train_steps=20", "--batch_size=8"]
    summary = scripts.summary("train_lm", f"--corpus={book}", f"--workdir={workdir}", *flags)
    done = scripts.attempt("train_lm", f"--corpus={store_of(book)}", f"--workdir={workdir}", *flags)
    assert done.returncode == 0 and json.loads(done.stdout) == summary


def test_a_training_on_a_store_is_the_one_on_its_text(book):
    """Ids of one byte, or of four: the same parameters."""
    store = load_texts(TextConfig(str(store_of(book))))
    model = build_model(ModelConfig(hidden_size=4), len(store.vocab))
    train = TrainConfig(num_train_steps=4, steps_per_dispatch=4)
    found = [
        fit(model, texts.ids["train"], train, batches=Batches(8, 5)).params
        for texts in (store, load_texts(TextConfig(str(book))))
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_bare_ids_are_trained_on_scored_and_sampled(scripts, nano, tmp_path):
    workdir = tmp_path / "run"
    flags = [*SMALL, "--num_train_steps=20", "--batch_size=2"]
    summary = scripts.summary("train_lm", f"--corpus={nano}", f"--workdir={workdir}", *flags)
    assert summary["level"] == "ids" and summary["vocab_size"] == 300 and summary["test_loss"] is None
    sample = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["sample"]
    assert all(0 <= int(word) < 300 for word in sample.split())
    done = scripts.attempt("score_text", f"--run={workdir}", "--text=the tide")
    assert (
        "expected numbers from 0 to 299 in --text, got 'the': the vocabulary is of bare ids"
        in (done.stderr.splitlines()[-1])
    )
    done = scripts.attempt("prepare_text", f"--corpus={nano}", f"--out={tmp_path / 'store'}")
    assert f"is a store already: train_lm --corpus={nano} takes it" in refusal(done)[1]


# Long texts


def test_a_long_text_is_kept_as_a_store(book, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preparing, "cache_folder", lambda: tmp_path / "cache")
    assert kept_store(TextConfig(str(book))) is None and kept_store(TextConfig("python_docs")) is None
    monkeypatch.setattr(preparing, "LONG_TEXT", 1000)
    data = DataConfig(corpus=str(book), level="word")
    texts = loading.load_texts(data)
    assert isinstance(texts.ids["train"], np.memmap) and texts.facts() == load_texts(data).facts()
    assert f"book.txt: {len(TEXT):,} bytes of text; its tokens are kept in" in capsys.readouterr().err
    # The windows of a training are not the text's; its content and how it is cut are.
    again = kept_store(DataConfig(corpus=str(book), level="word", batch_size=3))
    assert not capsys.readouterr().err and len(list((tmp_path / "cache" / "stores").iterdir())) == 1
    assert kept_store(TextConfig(str(book), "word", min_count=2)) != again
    book.write_text(TEXT + "more\n")
    assert kept_store(data) != again


def test_a_long_text_without_a_place_to_keep_it(book, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(preparing, "cache_folder", lambda: tmp_path / "file")
    monkeypatch.setattr(preparing, "LONG_TEXT", 1000)
    texts = loading.load_texts(TextConfig(str(book)))
    assert texts.corpus.train.startswith("the tide")
    assert "the text is read into memory" in capsys.readouterr().err

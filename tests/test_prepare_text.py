"""prepare_text as a user runs it, and its mistakes."""

import errno
import json
import sys

import pytest

from lmseq.config.text import TextConfig
from lmseq.data import store_writer
from lmseq.data.texts import load_texts, stored_config
from tests.scripts import refusal

TEXT = "the tide is low and we wait\nnobody asks why the ferry is late\n" * 30


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


def test_a_store_is_made_and_measured(scripts, book, tmp_path):
    out = tmp_path / "stores" / "book"
    done = scripts.attempt("prepare_text", f"--corpus={book}", "--level=word", f"--out={out}")
    summary = json.loads(done.stdout)
    assert done.returncode == 0 and summary["bytes"] == len(TEXT)
    assert summary["bytes_per_second"] > 0 and summary["peak_memory"] > 1 << 20
    texts = load_texts(TextConfig(str(book), "word"))
    sizes = [ids.size for ids in texts.ids.values()]
    assert "{:,} / {:,} / {:,} tokens (train / valid / test), 14 symbols".format(*sizes) in done.stderr
    assert summary["tokens"] == sum(sizes)
    expected = texts.facts()
    assert load_texts(stored_config(str(out))).facts() == expected


def test_a_named_corpus(scripts, tmp_path):
    done = scripts.attempt("prepare_text", "--corpus=python_docs", f"--out={tmp_path / 'docs'}")
    assert done.returncode == 0
    expected = load_texts(TextConfig("python_docs")).facts()
    assert load_texts(stored_config(str(tmp_path / "docs"))).facts() == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out="], "expected --out=DIR"),
        (["--corpus={folder}/*.none"], "nothing is there: '{folder}/*.none'"),
        (["--corpus={folder}/none.txt"], "nothing is there"),
        (["--level=ids"], "expected level byte, char, word or bpe"),
        (["--out={folder}"], "expected a folder that is not there yet, {folder} exists: name another"),
        (["--valid_fraction=0.6", "--test_fraction=0.5"], "leave some text to train on"),
        (["--min_count=2", "--level=byte"], "min_count=2 does nothing here"),
        (["--corpus=python_docs", "--end_documents"], "--end_documents does nothing"),
    ],
)
def test_mistakes(scripts, book, tmp_path, flags, message):
    given = [f"--corpus={book}", f"--out={tmp_path / 'store'}", *flags]
    done = scripts.attempt("prepare_text", *(flag.format(folder=tmp_path) for flag in given))
    assert message.format(folder=tmp_path) in refusal(done)[1]
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_a_disk_that_fills_is_said_in_a_line(scripts, book, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_writer, "_write_split", full)
    done = scripts.attempt("prepare_text", f"--corpus={book}", f"--out={tmp_path / 'store'}")
    assert refusal(done)[1].endswith("No space left on device: make room, then give the same command again")
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


@pytest.mark.parametrize("level", ["byte", "word"])
def test_memory_does_not_grow_with_the_text(processes, tmp_path, level):
    """A text of 48 MB takes no more than its pieces do; held as words it would take 600 MB."""
    peaks = []
    for size in (1, 48):
        (tmp_path / "text").write_bytes((TEXT.encode() * (10**6 // len(TEXT))) * size)
        flags = [f"--corpus={tmp_path / 'text'}", f"--level={level}", f"--out={tmp_path / str(size)}"]
        done = processes.execute([sys.executable, "-m", "experiments.prepare_text", *flags])
        peaks.append(json.loads(done.stdout)["peak_memory"])
    assert peaks[1] < peaks[0] + 150e6

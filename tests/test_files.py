"""Files are written whole or not at all, by whoever writes them."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lmseq import files
from lmseq.files import cache_folder, locked, replacing, write_text
from lmseq.ngram import smoothing
from lmseq.ngram.arpa import write_arpa
from lmseq.ngram.counts import FIRST_WORD_ID, count_ngrams
from lmseq.ngram.storage import save_tables
from lmseq.plotting import save_figure
from tests.ngrams import V, marked

TABLES = smoothing.witten_bell(count_ngrams(marked([[3, 4, 5, 3], [4, 4, 3], []]), V, 3)).tables
WORDS = [f"w{i}" for i in range(V - FIRST_WORD_ID)]


@pytest.mark.parametrize(("mode", "content"), [("w", "new é\n"), ("wb", b"new\r\n")])
def test_the_new_file_takes_the_place_of_the_old(tmp_path, mode, content):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path, mode) as file:
        file.write(content)
        assert path.read_text() == "old"
    assert path.read_bytes() == (content if mode == "wb" else content.encode())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyboardInterrupt()])
def test_what_is_raised_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as file:
        file.write("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    code = f"""
import os, pathlib
from lmseq.files import replacing
with replacing(pathlib.Path({str(path)!r})) as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")  # what the killed one left behind is in nobody's way
    assert path.read_text() == "new"


def test_text_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "config.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new, half of which can be written \ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


WRITERS = {
    "text.json": lambda path: write_text(path, "new"),
    "figure.png": lambda path: save_figure(Figure(), path),
    "tables.npz": lambda path: save_tables(path, TABLES, word_of=np.arange(3)),
    "model.arpa": lambda path: write_arpa(path, TABLES, WORDS),
    "model.arpa.gz": lambda path: write_arpa(path, TABLES, WORDS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_reader_never_sees_half(tmp_path, monkeypatch, name):
    """Until the new file is all on disk, the name stands for the old one."""
    path = tmp_path / name
    path.write_bytes(b"old")
    seen = []

    def look(descriptor):
        seen.append((path.read_bytes(), [p.name for p in tmp_path.iterdir() if p != path]))
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", look)
        with pytest.raises(OSError, match="full"):
            WRITERS[name](path)
    [(content, others)] = seen
    assert content == b"old" and len(others) == 1 and others[0].startswith(".")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"
    WRITERS[name](path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() != b"old"


def test_a_locked_folder_is_rid_of_what_a_kill_left(tmp_path):
    (tmp_path / ".tables.npz.123.tmp").write_bytes(b"half")
    (tmp_path / "kept.tmp").write_bytes(b"")
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "kept.tmp"]
        with pytest.raises(ValueError, match="another process is at work"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def raising(error: Exception):
    def raise_it(name: str) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize("without", [raising(RuntimeError("no home")), lambda name: f"~/.cache/{name}"])
def test_without_a_home_what_can_be_had_again_lies_among_temporary_files(monkeypatch, tmp_path, without):
    """Versions of platformdirs differ in what they answer."""
    monkeypatch.setattr("pooch.os_cache", without)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files._own_temporary_folder.cache_clear()
    assert cache_folder() == tmp_path / f"lmseq-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    cache_folder().chmod(0o777)  # now anyone could have written into it what would be run
    files._own_temporary_folder.cache_clear()
    assert cache_folder() == cache_folder() != tmp_path / f"lmseq-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    files._own_temporary_folder.cache_clear()
    monkeypatch.setattr("pooch.os_cache", lambda name: f"/home/me/.cache/{name}")
    assert cache_folder() == Path("/home/me/.cache/lmseq")


ELSEWHERE = {
    "lmseq/data/tokens.py",  # a vocabulary: texts
    "lmseq/training/checkpoint.py",  # what a digest is made of
    "experiments/frame/show.py",  # a sample, on a terminal
    "experiments/frame/launcher.py",  # what processes say to each other, for Python to read
    "experiments/frame/worker.py",
    "lmseq/training/processes.py",
    "benchmarks/forecast_tasks.py",
}


def test_json_is_written_in_one_place():
    """Which knows that infinities and NaNs are none."""
    root = Path(__file__).parents[1]
    files = {file for part in ("lmseq", "experiments", "benchmarks") for file in (root / part).rglob("*.py")}
    found = {str(file.relative_to(root)) for file in files if "json.dump" in file.read_text(encoding="utf-8")}
    assert found == {"lmseq/files.py"} | ELSEWHERE


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 3])
def test_what_is_sealed_is_read_whole_or_not_at_all(content):
    whole = files.sealed(content)
    assert files.unsealed(whole) == content
    changed = bytes([whole[0] ^ 1]) + whole[1:]
    for damaged in (b"", whole[:-1], whole[1:], whole + b"x", changed):
        with pytest.raises(ValueError, match="is cut or was changed"):
            files.unsealed(damaged)

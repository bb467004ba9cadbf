"""Libraries of C++: compiled, found again, and refused where they are damaged."""

import os

import pytest

from lmseq import compiled
from lmseq.compiled import Library, open_library
from lmseq.ngram import native

SOURCE = 'extern "C" int lmseq_seven() { return 7; }'


@pytest.fixture
def small(tmp_path) -> Library:
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "small.cc").write_text(SOURCE)
    return Library("small", tmp_path / "cpp")


def test_compiling_needs_a_compiler(small, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    with pytest.raises(ValueError, match=r"false could not compile small: "):
        small.compile(folder, "false")
    with pytest.raises(ValueError, match="cannot run no_such_compiler"):
        small.compile(folder, "no_such_compiler")
    with pytest.raises(ValueError, match="true could not compile small: it left no library"):
        small.compile(folder, "true")
    empty = tmp_path / "empty"
    empty.write_text('#!/bin/sh\nfor last; do :; done\n: > "$last"\n')
    empty.chmod(0o755)
    with pytest.raises(ValueError, match="it left no library"):
        small.compile(folder, str(empty))
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="found none"):
        small.compile(folder)
    assert not list(folder.iterdir())


def test_a_library_belongs_to_sources_and_processor(small, tmp_path, monkeypatch):
    path = small.path(tmp_path)
    assert path == small.path(tmp_path) and path.parent == tmp_path and path.name.startswith("small-")
    for changed in (
        lambda: monkeypatch.setattr(compiled.platform, "machine", lambda: "another"),
        lambda: (small.folder / "small.cc").write_text(SOURCE + "\n"),
        lambda: (small.folder / "a.h").write_text(""),
    ):
        changed()
        assert small.path(tmp_path) != path
        path = small.path(tmp_path)
    assert Library("small", small.folder, versions=("1",)).path(tmp_path) != path


def test_a_whole_library_is_opened_and_no_other(small, tmp_path):
    try:
        path = small.compile(tmp_path / "made")
    except ValueError as error:
        pytest.skip(str(error))
    assert open_library(path, ("lmseq_seven",)).lmseq_seven() == 7
    with pytest.raises(OSError, match="has no function lmseq_eight: compile it again"):
        open_library(path, ("lmseq_eight",))
    whole, other = path.read_bytes(), tmp_path / "other.so"
    for content in (b"", b"\x7fELF but no library", whole[:3000], whole[:-1], whole[:-32], whole[1:]):
        other.write_bytes(content)
        with pytest.raises(OSError, match="is damaged: compile it again"):
            open_library(other, ())


def test_a_foreign_library_is_no_library_of_counts(small, tmp_path, monkeypatch):
    """Whole, but of other functions; and what is not there, or not to be read, is done without."""
    try:
        path = small.compile(tmp_path / "native")
    except ValueError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(native._Loaded, "library", None)
    monkeypatch.setattr(native, "native_folder", lambda: tmp_path / "native")
    assert not native.find()
    os.replace(path, native.LIBRARY.path(tmp_path / "native"))
    with pytest.raises(OSError, match="has no function"):
        native.load(native.LIBRARY.path(tmp_path / "native"))
    assert not native.find() and not native.is_loaded()
    with pytest.raises(ValueError, match="`make native` compiles them"):
        native.library()

"""Files: written whole or not at all, unpacked, and read with one line for what is damaged."""

import bz2
import gzip
import json
import lzma
import math
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol, runtime_checkable

import filelock


@contextmanager
def replacing(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """An open file that takes the place of `path` when the block ends: a reader sees the old or the new one.

    mode: `w` for UTF-8 text, `wb` for bytes. What is written goes to a temporary file in the same folder, is
    brought to disk, and is then renamed. Where the block raises, the old file stays and the new one is gone.
    """
    # The process's number, so that two processes that write the same file do not write into one another.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    as_text = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    try:
        with temporary.open(mode, **as_text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a folder and keep other processes out of it; ValueError when one is at work there already.

    What a process that was killed while it wrote left behind is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(f"another process is at work in {folder}: wait for it, or stop it") from None
    try:
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """The user's own folder for what can be had again: downloads, compiled programs and loops.

    Of a user without a home it lies among temporary files.
    """
    import pooch

    try:
        folder = Path(pooch.os_cache("lmseq"))
    except RuntimeError:  # of later versions, where there is no home
        folder = Path("~")
    return Path(tempfile.gettempdir()) / f"lmseq-{os.getuid()}" if folder.parts[0] == "~" else folder


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON, in ASCII, as the standard has it (RFC 8259): what is infinite or no number becomes null."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """The same with None for infinities and NaNs, which JSON cannot say; a tuple becomes a list."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case _:
            return value


# Packed files


@runtime_checkable
class Readable(Protocol):
    """What bytes can be read from, onwards only."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes, all if negative; none at the end."""


class Packing(NamedTuple):
    """How files are packed: the ending of their names, their first bytes, what unpacks an open one."""

    ending: str
    magic: re.Pattern[bytes]
    unpack: Callable[[Readable], Readable]


PACKINGS = (
    Packing(".gz", re.compile(rb"\x1f\x8b"), gzip.open),
    # More than `BZh`, which may be the first word of a text.
    Packing(".bz2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.open),
    Packing(".xz", re.compile(rb"\xfd7zXZ\0"), lzma.open),
)
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what reading a packed file raises


class _Rejoined:
    """A file that can only be read onwards, with what was read of it already put back in front."""

    def __init__(self, head: bytes, file: Readable) -> None:
        self.head, self.file = head, file

    def read(self, size: int = -1, /) -> bytes:
        """As `Readable` has it."""
        if not self.head:
            return self.file.read(size)
        if size < 0:
            piece, self.head = self.head + self.file.read(), b""
        else:
            piece, self.head = self.head[:size], self.head[size:]
        return piece


def unpacked(file: Readable) -> Readable:
    """An open file, at its beginning, as one to read on: unpacked where it is packed by gzip, bzip2 or xz.

    It is known by its first bytes, not by its name: a pipe has none. Reading raises one of `DAMAGE` where
    the file is damaged.
    """
    head = file.read(10)
    rejoined = _Rejoined(head, file)
    return next((each.unpack(rejoined) for each in PACKINGS if each.magic.match(head)), rejoined)


# Files of a run


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all (see `replacing`)."""
    with replacing(path) as file:
        file.write(text)


def read_text(path: Path) -> str:
    """A file of a run; ValueError, naming it, for one that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or choose another folder") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run; ValueError, naming it, for a damaged one."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or choose another folder") from None

"""Packed files, known by their first bytes: gzip, bzip2, xz and Zstandard."""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

ZST_BLOCK = 1 << 14  # bytes read at once: a text may be a hundred times what it is packed into


@runtime_checkable
class Readable(Protocol):
    """What bytes can be read from, onwards only."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes, all if negative; none at the end."""


class _Joined:
    """Pieces, and a file behind them, as one file that can only be read onwards."""

    def __init__(self, pieces: Iterator[bytes], file: Readable | None = None) -> None:
        self._pieces, self._file, self._left = pieces, file, b""

    def read(self, size: int = -1, /) -> bytes:
        """As `Readable` has it."""
        if size < 0:
            return self._left + b"".join(self._pieces) + (self._file.read() if self._file else b"")
        self._left = self._left or next(self._pieces, b"")
        if not self._left and self._file:
            return self._file.read(size)
        piece, self._left = self._left[:size], self._left[size:]
        return piece


def _unpack_zst(file: Readable) -> Readable:
    """A file packed by Zstandard, in any number of frames; ValueError where nothing here can read it."""
    try:
        from compression.zstd import ZstdDecompressor as new_frame  # of Python 3.14
        from compression.zstd import ZstdError
    except ImportError:
        try:
            from zstandard import ZstdDecompressor, ZstdError
        except ImportError:
            name = getattr(file, "name", "a .zst file")
            raise ValueError(f"reading {name} takes the package zstandard: pip install zstandard") from None

        def new_frame():
            return ZstdDecompressor().decompressobj()

    def pieces() -> Iterator[bytes]:
        frame, data = None, b""
        while data := data or file.read(ZST_BLOCK):
            frame = frame or new_frame()
            try:
                piece = frame.decompress(data)
            except ZstdError as error:
                raise OSError(str(error)) from None
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
            if piece:
                yield piece
        if frame:
            raise EOFError("it ends in the middle of a frame")

    return _Joined(pieces())


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
    Packing(".zst", re.compile(rb"\x28\xb5\x2f\xfd"), _unpack_zst),
)
ENDINGS = tuple(each.ending for each in PACKINGS)
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what reading a packed file raises


def unpacked(file: Readable) -> Readable:
    """An open file, at its beginning, as one to read on: unpacked where it is packed by one of `PACKINGS`.

    It is known by its first bytes, not by its name: a pipe has none. Reading raises one of `DAMAGE` where
    the file is damaged. Raises ValueError for one packed by Zstandard where the package is missing.
    """
    head = file.read(10)
    joined = _Joined(iter((head,)), file)
    return next((each.unpack(joined) for each in PACKINGS if each.magic.match(head)), joined)

"""The lines of an ARPA file or pipe, compressed or not, with their numbers: what `arpa.read_arpa` reads."""

import codecs
import re
from pathlib import Path

from lmseq.packing import DAMAGE, unpacked

BLOCK = 1 << 22  # bytes read at once
MOST_HEADER = 1 << 20  # bytes before the line \data\: what has more of them is no ARPA file
MOST_LINE = 1 << 26  # bytes
BLANKS = b" \t\r\0"
_BREAK = re.compile(rb"\n(?:[ \t\r\0]*\n|\\)")  # a line's end before an empty line, or before a header
_DATA = re.compile(rb"(?:\A|\n)[ \t\r\0]*\\data\\[ \t\r\0]*(?=\n|\Z)")


class ArpaLines:
    r"""The lines of a file after `\data\`, singly, or in blocks that end with a line and hold no header.

    number: of the latest line, from 1. Raises ValueError, with the line, for a file without `\data\` near its
    beginning, and for one that cannot be read further.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.number, self.buffer = path, 0, b""
        self._ahead: bytes | Exception | None = None
        self.opened = path.open("rb")
        try:
            self.file = unpacked(self.opened)
            self._skip_header()
        except BaseException:
            self.opened.close()
            raise

    def __enter__(self) -> "ArpaLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def _skip_header(self) -> None:
        """Go past comments and the line `\\data\\`."""
        while len(self.buffer) < MOST_HEADER and (more := self._read(MOST_HEADER - len(self.buffer))):
            self.buffer += more
        self.buffer = self.buffer.removeprefix(codecs.BOM_UTF8)
        found = _DATA.search(self.buffer)
        if not found:
            where = f" within its first {MOST_HEADER >> 20} MiB" if len(self.buffer) == MOST_HEADER else ""
            raise self.error(f"expected \\data\\{where}, an ARPA file begins with it", 1)
        self.number = self.buffer.count(b"\n", 0, found.end()) + 1
        self.buffer = self.buffer[found.end() + 1 :]

    def _read(self, size: int) -> bytes:
        found, self._ahead = self._ahead if self._ahead is not None else self._attempt(size), None
        if isinstance(found, Exception):
            raise self.error(f"cannot be read further ({found})", self.number + 1) from None
        return found

    def _attempt(self, size: int) -> bytes | Exception:
        try:
            return self.file.read(size)
        except DAMAGE as error:
            return error

    def read_ahead(self) -> None:
        """Read on while others work on the buffer; what is wrong with it is told when it is due."""
        if self._ahead is None:
            self._ahead = self._attempt(BLOCK)

    def fill(self) -> None:
        """Read on until there is at least one whole line, or the file ends."""
        while b"\n" not in self.buffer and (more := self._read(BLOCK)):
            self.buffer += more
            if len(self.buffer) > MOST_LINE and b"\n" not in self.buffer:
                what = f"a line of more than {MOST_LINE >> 20} MiB, which no ARPA file has"
                raise self.error(what, self.number + 1)

    def line(self) -> str:
        """The next one without blanks around it; ValueError at the end of the file, which is too early."""
        self.fill()
        if not self.buffer:
            raise self.error("ends before \\end\\: it is truncated")
        line, _, self.buffer = self.buffer.partition(b"\n")
        self.number += 1
        return line.strip(BLANKS).decode("utf-8", errors="replace")

    def skip_blank(self) -> str:
        """The next line that has more than blanks in it."""
        while not (line := self.line()):
            pass
        return line

    def skip_empty(self) -> None:
        """Go past lines with nothing but blanks in them."""
        while True:
            self.fill()
            line, end, rest = self.buffer.partition(b"\n")
            if line.strip(BLANKS) or not end:
                return
            self.buffer, self.number = rest, self.number + 1

    def skip(self, size: int, lines: int) -> None:
        """Go past so many bytes of the buffer, which are so many lines."""
        self.buffer, self.number = self.buffer[size:], self.number + lines

    def block(self) -> bytes:
        """Some lines, none of them empty or beginning with a backslash; nothing where such a one is next."""
        self.fill()
        end = self.buffer.rfind(b"\n") + 1 or len(self.buffer)
        if found := _BREAK.search(self.buffer, 0, end):
            end = found.start() + 1
        line = self.buffer.partition(b"\n")[0].strip(BLANKS)
        if not line or line.startswith(b"\\"):
            end = 0
        block, self.buffer = self.buffer[:end], self.buffer[end:]
        return block

    def error(self, what: str, number: int = 0) -> ValueError:
        """What is wrong, with the file and the line: the latest one, or that of a number."""
        return ValueError(f"{self.path}, line {number or self.number}: {what}")

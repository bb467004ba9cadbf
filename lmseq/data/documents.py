"""Files of text, plain, packed or as JSON lines, read in pieces of UTF-8 one after the other."""

import codecs
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lmseq.data.corpora import SPLITS, decoded
from lmseq.data.pieces import END, behind_character, behind_line, blocks, cut_behind
from lmseq.packing import DAMAGE, ENDINGS, Readable, unpacked

JSON_LINES = (".jsonl", ".ndjson")
Progress = Callable[[int], None]  # is told bytes of files as they are read
BATCH = 1 << 18  # bytes of short documents that are handed on together


class Source(NamedTuple):
    """Files of a text: of the part `all`, or of each of train, valid and test, in the order of reading."""

    name: str
    parts: dict[str, tuple[Path, ...]]

    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for paths in self.parts.values() for path in paths)


def find_source(corpus: str) -> Source:
    """The files that a path names: a file, a folder, or a pattern such as `texts/*.jsonl.gz`.

    A folder with train, valid and test, each with any ending, has parts of its own; of another, and of a
    pattern, all files are one text, in sorted order. Raises ValueError where there is no file, or a part is
    missing or there twice.
    """
    path = Path(corpus)
    if os.path.isfile(path):
        return Source(path.name, {"all": (path,)})
    if not os.path.isdir(path):
        if os.path.exists(path):
            raise ValueError(f"expected files that can be read twice, {corpus} is none: write it to a file")
        found = sorted(Path(each) for each in glob.glob(corpus, recursive=True) if os.path.isfile(each))
        if not found:
            raise ValueError(f"expected a file, a folder or a pattern of files, nothing is there: {corpus!r}")
        return Source(path.name, {"all": tuple(found)})
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    if not files:
        raise ValueError(f"expected files of text in folder {path}, it has none: name another")
    of_split = {split: [each for each in files if each.name.split(".")[0] == split] for split in SPLITS}
    if not of_split["train"]:
        return Source(path.resolve().name, {"all": tuple(files)})
    for split, each in of_split.items():
        if len(each) != 1:
            got = ", ".join(file.name for file in each) or "none"
            raise ValueError(f"expected one file of the {split} part in folder {path}, got {got}")
    return Source(path.resolve().name, {split: tuple(each) for split, each in of_split.items()})


def read_documents(
    paths: Sequence[Path],
    *,
    text_field: str = "text",
    has_ends: bool = False,
    progress: Progress = lambda num_bytes: None,
) -> Iterator[bytes | None]:
    """The text of files in pieces of whole characters; each file, or line of JSON, is a document.

    has_ends: an END follows each document. Otherwise a document that does not end with a line feed is given
    one, unless it is the last. A byte order mark at the start of a file is no text. Raises ValueError for a
    file that is missing, damaged, or not UTF-8 (with the byte offset), a line that is no JSON object with
    text at text_field, and where there is no text at all.
    """
    is_empty, last, separator = True, b"", b""
    for piece in (piece for path in paths for piece in _documents(path, text_field, progress)):
        if piece is not END:
            yield separator + piece
            is_empty, last, separator = False, piece[-1:], b""
        elif has_ends:
            yield END
        elif last and last != b"\n":
            separator = b"\n"
    if is_empty:
        names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
        raise ValueError(f"expected text in {names}, got nothing: write some text into it or name another")


def gathered(text: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """The same text with short pieces joined, as each piece takes some time however short it is."""
    batch, size = [], 0
    for piece in text:
        if piece is not END:
            batch.append(piece)
            size += len(piece)
        if batch and (size >= BATCH or piece is END):
            yield b"".join(batch)
            batch, size = [], 0
        if piece is END:
            yield END
    if batch:
        yield b"".join(batch)


def _documents(path: Path, text_field: str, progress: Progress) -> Iterator[bytes | None]:
    """Each document of a file in pieces, with an END behind it."""
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise ValueError(
            f"cannot read {path}: it is not there any more; give the same command again"
        ) from None
    told, read = 0, _json_lines if _ending(path) in JSON_LINES else _plain
    with raw:
        try:
            for piece in read(path, unpacked(raw), text_field):
                yield piece
                told, before = raw.tell(), told
                progress(told - before)
        except DAMAGE as error:
            raise ValueError(f"{path} is damaged ({error}): restore it, or name another") from None


def _ending(path: Path) -> str:
    """The last part of a file's name that says what is in it, however it is packed."""
    return Path(path.stem if path.suffix in ENDINGS else path.name).suffix


def _plain(path: Path, file: Readable, _: str) -> Iterator[bytes | None]:
    """A text, as it is."""
    offset = 0
    for piece in cut_behind(blocks(file), behind_character):
        if not piece.isascii():
            decoded(piece, path, offset)
        text = piece if offset else piece.removeprefix(codecs.BOM_UTF8)
        if text:
            yield text
        offset += len(piece)
    yield END


def _json_lines(path: Path, file: Readable, text_field: str) -> Iterator[bytes | None]:
    """The text of each line."""
    pieces = cut_behind(blocks(file), behind_line)
    lines = (line for piece in pieces for line in piece.removesuffix(b"\n").split(b"\n"))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected JSON in {where} ({error}): mend the line") from None
        text = found.get(text_field) if isinstance(found, dict) else None
        if not isinstance(text, str):
            fields = ", ".join(found) if isinstance(found, dict) else "no object"
            raise ValueError(
                f"expected an object with text at {text_field!r} in {where}, got {fields[:200]!r}: "
                "name the field by --text_field"
            )
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where} has a character that is none ({error}): mend the line") from None
        if data:
            yield data
        yield END

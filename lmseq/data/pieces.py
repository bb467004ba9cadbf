"""A long text in pieces of UTF-8: cut where no token is cut, normalised, and dealt out to its parts."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator

from lmseq.data.corpora import BLANKS, SPLITS, byte_of_character, count_characters
from lmseq.data.tokens import Level, Normalization
from lmseq.packing import Readable

LINE_END = b"\n"  # stands for a line's end among words, none of which can contain it
PIECE = 1 << 22  # bytes
END = None  # among pieces: here a document ends
Pieces = Iterable[bytes | None]
_BLANK = re.compile(f"[{BLANKS}]".encode())
_BLANK_BYTES = {blank.encode() for blank in BLANKS}
_LETTERS = bytes(i if chr(i) in "abcdefghijklmnopqrstuvwxyz" else ord(" ") for i in bytes(range(256)).lower())
# Where byte-pair encoding would cut whatever stands on either side: behind a line feed or before a space,
# with no other white space beside it.
_BETWEEN = re.compile(r"\S\n(?=\S)|\S(?= \S)")


def blocks(file: Readable, size: int = -1) -> Iterator[bytes]:
    """The first `size` bytes of a file (-1: all), at most PIECE at a time, cut anywhere."""
    while size and (block := file.read(PIECE if size < 0 else min(PIECE, size))):
        size -= len(block) if size > 0 else 0
        yield block


def cut_behind(text: Pieces, last_cut: Callable[[bytes], int]) -> Iterator[bytes | None]:
    """The same text in pieces that end where `last_cut` finds their last good place; 0 where there is none.

    The last piece ends where the text does, and each before an END where its document does.
    """
    rest = b""
    for block in text:
        if block is END:
            if rest:
                yield rest
            rest = b""
            yield END
            continue
        rest += block
        if end := last_cut(rest):
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def behind_blank(piece: bytes) -> int:
    """Behind the last line feed or space."""
    return max(piece.rfind(b"\n"), piece.rfind(b" ")) + 1


def behind_line(piece: bytes) -> int:
    """Behind the last line feed."""
    return piece.rfind(b"\n") + 1


def behind_character(piece: bytes) -> int:
    """Behind the last whole character of what may be cut in the middle of one."""
    for end in range(len(piece), max(0, len(piece) - 4), -1):
        byte = piece[end - 1]
        if byte < 0x80:
            return end
        if byte >= 0xC0:  # a character of 2, 3 or 4 bytes begins here
            whole = end - 1 + (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
            return whole if whole <= len(piece) else end - 1
    return len(piece)


def between_pairs(piece: bytes) -> int:
    """The last place at which byte-pair encoding cuts too."""
    text = piece.decode()
    for start in (max(0, len(text) - 4096), 0):
        if ends := [found.end() for found in _BETWEEN.finditer(text, start)]:
            return len(piece) - len(text[ends[-1] :].encode())
    return 0


def cut_for(level: Level, text: Pieces) -> Iterator[bytes | None]:
    """Pieces that can be encoded one by one: no word is cut, nor what byte-pair encoding takes together."""
    match level:
        case "word":
            return cut_behind(text, behind_blank)
        case "bpe":
            return cut_behind(text, between_pairs)
        case _:
            return iter(text)


def pieces(file: Readable, size: int = -1) -> Iterator[bytes]:
    """The first `size` bytes of a file (-1: all), about PIECE at a time, cut behind blanks."""
    # A text may be one line: its pieces end anywhere between words.
    return cut_behind(blocks(file, size), behind_blank)


def normalize_pieces(text: Pieces, how: Normalization) -> Iterator[bytes | None]:
    """As `tokens.normalize_text` does with the whole text, or each document that ends in END."""
    if how == "none":
        yield from text
        return
    after_blank = False
    for piece in text:
        if piece is END:
            after_blank = False
            yield END
            continue
        letters = re.sub(b" +", b" ", piece.translate(_LETTERS))
        if after_blank:  # the same run of what is no letter
            letters = letters.removeprefix(b" ")
        if letters:
            after_blank = letters.endswith(b" ")
            yield letters


class Tally:
    """Passes pieces of a text on, and adds up what there is of it."""

    def __init__(self, text: Iterable[bytes | None]) -> None:
        self._text = text
        self.num_chars = self.num_bytes = 0
        self.sha256 = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes | None]:
        for piece in self._text:
            if piece is not END:
                self.num_chars += count_characters(piece)
                self.num_bytes += len(piece)
                self.sha256.update(piece)
            yield piece


def deal_out(text: Pieces, cuts: list[int], *, whole_words: bool) -> Iterator[tuple[str, bytes | None]]:
    """Pieces with the part that they are of, for cuts as characters of the text (`corpora.character_cuts`).

    With whole_words each cut moves forward to just after the next white space, as in `corpora.split_text`.
    What an END ends is before the cut.
    """
    part, place, last = 0, 0, b" "
    for piece in text:
        if piece is END:
            yield SPLITS[part], END
            last = b" "  # no word goes on behind it
            continue
        while piece:
            moves = whole_words and place > 0 and last not in _BLANK_BYTES
            while part < len(cuts) and place >= cuts[part] and not (moves and cuts[part]):
                part += 1
            head = piece
            if part < len(cuts):
                if place < cuts[part]:
                    head = piece[: byte_of_character(piece, cuts[part] - place)]
                elif blank := _BLANK.search(piece):
                    head = piece[: blank.end()]
            yield SPLITS[part], head
            piece, place, last = piece[len(head) :], place + count_characters(head), head[-1:]

"""Numbers of the words of a text in pieces, by arrays: no object is made for a word that came lately."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int, Int32

from lmseq.data.corpora import BLANKS
from lmseq.data.marks import refuse_marks
from lmseq.data.pieces import END, LINE_END, Pieces, cut_for

SLOTS = 1 << 20
BLOCK = 1 << 16  # words that are looked up at once
_HALF = 8  # bytes: a word of two halves is compared as two integers
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_HALF + 1)], "<u8")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: Knuth's multiplicative hashing
_IS_BLANK = np.zeros(256, bool)
_IS_BLANK[[*(BLANKS.replace("\n", "") + "\0").encode()]] = True


def number_words(
    text: Pieces, number_of: Callable[[bytes], int], name: str = "the text"
) -> Iterator[Int32[np.ndarray, "words"]]:
    """Numbers of the words of each piece, with that of LINE_END for each line's end, int32.

    The last line of a document counts, ended or not. number_of is asked at least once for each word, first
    in the order in which words come first, and must give the same number again. Raises ValueError for words
    kept for ends, in a text called `name`.
    """
    numbers, last = _Numbers(number_of), b"\n"
    for piece in cut_for("word", text):
        if piece is not END:
            refuse_marks(piece, name)
            yield numbers.of(piece)
            last = piece[-1:] or last
            continue
        if last != b"\n":
            yield numbers.of(LINE_END)
        last = b"\n"
    if last != b"\n":
        yield numbers.of(LINE_END)


class _Numbers:
    """Numbers of words; those of the latest words of at most 16 bytes are kept in a table.

    A word has one slot there, by a hash of its bytes. It is the word itself that is compared, so that a
    number is never another word's.
    """

    def __init__(self, number_of: Callable[[bytes], int]) -> None:
        self._number_of = number_of
        # Head, tail and number of a slot lie beside each other, mostly in one line of a cache.
        self._slots = np.zeros((SLOTS, 3), "<u8")

    def of(self, piece: bytes) -> Int32[np.ndarray, "words"]:
        """Numbers of the words between blanks, and of LINE_END for each line feed."""
        # A line feed becomes a word; and both halves of the last word can be read.
        text = piece.replace(b"\n", b" \n ") + bytes(2 * _HALF)
        ends = np.flatnonzero(_IS_BLANK.take(np.frombuffer(text, np.uint8)))
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1] + 1
        is_word = ends > starts
        starts, ends = starts[is_word], ends[is_word]
        found = np.empty(len(ends), np.int32)
        for at in range(0, len(ends), BLOCK):
            block = slice(at, at + BLOCK)
            found[block] = self._look_up(text, starts[block], ends[block])
        return found

    def _look_up(
        self, text: bytes, starts: Int[np.ndarray, "words"], ends: Int[np.ndarray, "words"]
    ) -> Int32[np.ndarray, "words"]:
        halves = np.ndarray(len(text) - _HALF + 1, "<u8", text, strides=(1,))  # that begin at each byte
        sizes = ends - starts
        heads = halves[starts] & _MASKS[np.minimum(sizes, _HALF)]
        tails = halves[np.minimum(starts + _HALF, len(halves) - 1)] & _MASKS[np.clip(sizes - _HALF, 0, _HALF)]
        slots = ((heads ^ tails * _MIX) * _MIX >> np.uint64(64 - SLOTS.bit_length() + 1)).astype(np.intp)
        is_short = sizes <= 2 * _HALF
        there = self._slots.take(slots, axis=0, mode="clip")  # all are inside: clip spares the check
        found = there[:, 2].astype(np.int32)
        missed = np.flatnonzero((there[:, 0] != heads) | (there[:, 1] != tails) | ~is_short)
        places = zip(starts[missed].tolist(), ends[missed].tolist(), strict=True)
        found[missed] = [self._number_of(text[start:end]) for start, end in places]
        kept = missed[is_short[missed]]
        self._slots[slots[kept]] = np.stack([heads[kept], tails[kept], found[kept].astype("<u8")], axis=1)
        return found

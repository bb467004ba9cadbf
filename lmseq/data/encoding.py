"""Vocabulary and ids of a text in pieces: what `tokens` makes of a whole text, without holding it."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import count

import numpy as np
from jaxtyping import Integer, UInt32

from lmseq.config.text import TextConfig
from lmseq.data.numbering import number_words
from lmseq.data.pieces import END, LINE_END, Pieces, behind_line, cut_behind, cut_for
from lmseq.data.tokens import EOS, Vocab, char_tokens, train_bpe, word_tokens

Ids = Integer[np.ndarray, "_"]


def vocab_of(train: Pieces, config: TextConfig, *, has_ends: bool = False, name: str = "the text") -> Vocab:
    """As `tokens.build_vocab`, of the normalised training text in pieces.

    has_ends: `<eos>` is a symbol, for the ends of documents. Raises ValueError as `build_vocab` does.
    """
    ends = (EOS,) if has_ends else ()
    match config.level:
        case "byte":
            return Vocab("byte", config.normalize, ends)
        case "char":
            unknown, *known = char_tokens(_count_characters(train), config.min_count)
            return Vocab("char", config.normalize, (unknown, *ends, *known))
        case "word":
            return Vocab("word", config.normalize, word_tokens(_count_words(train, name), config.min_count))
        case "bpe":
            lines = (piece.decode() for piece in cut_behind(train, behind_line) if piece is not END)
            return Vocab("bpe", config.normalize, ends, train_bpe(lines, config.bpe_vocab_size))
        case _:
            raise ValueError(
                f"expected level byte, char, word or bpe of a text, got {config.level!r}: choose one"
            )


def _count_characters(text: Pieces) -> dict[str, int]:
    counts = np.zeros(0x110000, np.int64)
    for piece in text:
        if piece is not END:
            found = np.bincount(_code_points(piece))
            counts[: found.size] += found
    return {chr(point): int(counts[point]) for point in np.flatnonzero(counts)}


def _count_words(text: Pieces, name: str) -> dict[str, int]:
    numbers: defaultdict[bytes, int] = defaultdict(count().__next__)
    counts = np.zeros(0, np.int64)
    for found in number_words(text, numbers.__getitem__, name):
        more = np.bincount(found, minlength=len(numbers))
        more[: counts.size] += counts
        counts = more
    words = (EOS if word == LINE_END else word.decode() for word in numbers)
    return dict(zip(words, counts.tolist(), strict=True))


def _code_points(piece: bytes) -> UInt32[np.ndarray, "points"] | Integer[np.ndarray, "points"]:
    """The characters of UTF-8."""
    if piece.isascii():
        return np.frombuffer(piece, np.uint8)
    return np.frombuffer(piece.decode().encode("utf-32-le"), np.uint32)


def dtype_of(vocab: Vocab) -> np.dtype:
    """The smallest of uint8, uint16 and uint32, little endian, that holds the ids of a vocabulary."""
    return next(np.dtype(kind) for kind in ("u1", "<u2", "<u4") if len(vocab) - 1 <= np.iinfo(kind).max)


class Encoder:
    """Makes ids of texts in pieces, as `Vocab.encode` does of a whole one, and counts what was unknown.

    num_unknown: tokens that the vocabulary lacks. num_marks: words that are spelled `<unk>` in the text.
    """

    def __init__(self, vocab: Vocab) -> None:
        self._vocab, self._dtype = vocab, dtype_of(vocab)
        self.num_unknown = self.num_marks = 0
        if vocab.level == "word":
            words = (LINE_END if token == EOS else token.encode() for token in vocab.tokens)
            self._numbers = {word: number for number, word in enumerate(words)}
        if vocab.level == "char":
            self._table = vocab.id_of_code_point.astype(self._dtype)

    def encode(self, text: Pieces, *, name: str = "the text") -> Iterator[Ids]:
        """Ids of the normalised text, some at a time, of `dtype_of`.

        Where END ends a document stands `<eos>`, if the vocabulary has it; of words it ends the line. Raises
        ValueError as `Vocab.encode` does.
        """
        if self._vocab.level == "word":
            unknown = len(self._numbers)
            for numbers in number_words(text, lambda word: self._numbers.get(word, unknown), name):
                is_unknown = numbers == unknown
                self.num_unknown += int(np.count_nonzero(is_unknown))
                self.num_marks += int(np.count_nonzero(numbers == 0))
                yield np.where(is_unknown, 0, numbers).astype(self._dtype)
            return
        for piece in cut_for(self._vocab.level, text):
            if piece is not END:
                yield self._encode_piece(piece)
            elif self._vocab.end_id is not None:
                yield np.array([self._vocab.end_id], self._dtype)

    def _encode_piece(self, piece: bytes) -> Ids:
        match self._vocab.level:
            case "byte":
                return np.frombuffer(piece, np.uint8).astype(self._dtype, copy=False)
            case "char":
                ids = self._table.take(_code_points(piece), mode="clip")
                self.num_unknown += ids.size - int(np.count_nonzero(ids))
                return ids
            case _:
                return self._vocab.encode(piece.decode()).astype(self._dtype)

"""From text to the word ids of count models, numbered by first appearance, a piece of the text at a time."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from lmseq.data.numbering import number_words
from lmseq.data.pieces import LINE_END
from lmseq.ngram.counts import EOS_ID, FIRST_WORD_ID, UNK_ID, begin_sentences


class NumberedText(NamedTuple):
    """A training text: marked sentences of ids, int32 (T,), and the words of ids 3, 4, ... in UTF-8."""

    stream: Int[np.ndarray, "time"]
    words: list[bytes]


class _Numbering(dict[bytes, int]):
    """Ids by word; a word asked for the first time gets the next one."""

    def __missing__(self, word: bytes) -> int:
        number = self[word] = len(self) - 1 + FIRST_WORD_ID
        return number


def _read(text: Iterable[bytes], id_of: Callable[[bytes], int], name: str) -> Int[np.ndarray, "time"]:
    """Marked sentences of a text given in pieces that end with blanks; the last line need not end."""
    ids = [np.zeros(0, np.int32), *number_words(text, id_of, name)]
    whole = np.concatenate(ids)
    ids.clear()  # a long text is in memory once, not twice
    return begin_sentences(whole)


def number_text(text: Iterable[bytes], name: str = "the text") -> NumberedText:
    """Ids of a training text given in pieces that end with blanks; words are numbered as they appear.

    Raises ValueError for a text, called `name`, with `<s>`, `</s>` or `<eos>` as a word.
    """
    numbering = _Numbering({LINE_END: EOS_ID})
    stream = _read(text, numbering.__getitem__, name)
    return NumberedText(stream, list(numbering)[1:])


def look_up(text: Iterable[bytes], words: Sequence[bytes], name: str = "the text") -> Int[np.ndarray, "time"]:
    """Marked sentences of ids of another text, int32 (T,); what is not among the words is `<unk>`.

    Raises ValueError as `number_text` does.
    """
    numbering = {word: number for number, word in enumerate(words, start=FIRST_WORD_ID)}
    numbering[LINE_END] = EOS_ID
    return _read(text, lambda word: numbering.get(word, UNK_ID), name)


def spell_words(symbols: Sequence[str], word_of: Int[np.ndarray, "vocab"], num_words: int) -> list[str]:
    """The words of ids 3 ... num_words - 1, from the symbol that stands for each; empty where none does."""
    words = [""] * (num_words - FIRST_WORD_ID)
    for symbol, word in zip(symbols, word_of.tolist(), strict=True):
        if word >= FIRST_WORD_ID:
            words[word - FIRST_WORD_ID] = symbol
    return words

"""Text to word ids, whatever the pieces it is read in."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data import pieces as data_pieces
from lmseq.data.pieces import pieces
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, UNK_ID
from lmseq.ngram.words import look_up, number_text

texts = st.text(alphabet="ab é\n\t\r\0\v\f\u3000", max_size=40)


def by_hand(text: str) -> list[list[str]]:
    """The words of each line: between spaces, tabs, carriage returns and NULs."""
    for blank in "\t\r\0":
        text = text.replace(blank, " ")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [[word for word in line.split(" ") if word] for line in lines]


def spelled(stream, vocabulary) -> list[list[str]]:
    """Sentences of a marked stream, as words."""
    starts = np.flatnonzero(stream == BOS_ID)
    sentences = [s.tolist() for s in np.split(stream, starts)[1:]]
    assert all(s[-1] == EOS_ID and EOS_ID not in s[:-1] for s in sentences)
    names = {UNK_ID: "?"} | {FIRST_WORD_ID + i: word.decode() for i, word in enumerate(vocabulary)}
    return [[names[i] for i in s[1:-1]] for s in sentences]


@given(texts, st.integers(1, 9))
def test_words_are_what_stands_between_blanks(text, size):
    whole = number_text([text.encode()] if text else [])
    assert spelled(whole.stream, whole.words) == by_hand(text)
    # By first appearance, so in one piece or many.
    flat = [word for line in by_hand(text) for word in line]
    assert [word.decode() for word in whole.words] == list(dict.fromkeys(flat))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_pieces, "PIECE", size)
        cut = number_text(pieces(io.BytesIO(text.encode())))
    np.testing.assert_array_equal(cut.stream, whole.stream)


@given(texts, texts)
def test_another_text_has_unknown_words(train, other):
    vocabulary = number_text([train.encode()]).words
    known = {word.decode() for word in vocabulary}
    expected = [[word if word in known else "?" for word in line] for line in by_hand(other)]
    assert spelled(look_up([other.encode()], vocabulary), vocabulary) == expected


def test_the_first_bytes_of_a_file():
    file = io.BytesIO(b"one two\nthree four\nfive\n")
    assert b"".join(pieces(file, 12)) == b"one two\nthre"


@pytest.mark.parametrize("mark", ["<s>", "</s>", "<eos>"])
def test_marks_are_no_words(mark):
    with pytest.raises(ValueError, match=f"the text has the word {mark}, which is kept for"):
        number_text([f"a {mark} b\n".encode()])

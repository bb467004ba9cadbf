r"""The spelling of ARPA files: whatever a text has, a model and its file score it alike.

Tables are compared: a file has a sentence's end at every level, which of runs only those of words have.
"""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lmseq.data.marks import KEPT, places_of
from lmseq.data.texts import Texts
from lmseq.data.tokens import Corpus, Vocab, build_vocab
from lmseq.ngram import smoothing
from lmseq.ngram.arpa import MARKS, read_arpa, write_arpa
from lmseq.ngram.backoff import score_words
from lmseq.ngram.corpus import number_texts
from lmseq.ngram.counts import count_ngrams
from lmseq.ngram.spelling import spell_symbols, spell_text
from lmseq.ngram.words import look_up, spell_words

AWKWARD = [
    "co\u00adop stay",  # a soft hyphen, which Python calls unprintable
    "می\u200cخواهم بروم",  # a zero-width non-joiner, as in ordinary Persian
    "10\u00a0km \ue000 \U0001fae9 \u2028 \x85 \x0b \x0c",
    "<unk> \\<unk> <unk-word> <UNK> \\\\<UNK> <Unk>",
    "\\x20 \\n \\ \\\\ x20 \\x00",
    "\ufeffa \\data\\ \\end\\ \\1-grams: # -1.5",
    "\t\r\n\0 \n\n",
]
pieces = st.sampled_from([*" \n\t\r\0\\<>/", "x20", "<unk>", "<UNK>", "\\<unk>", "unk", "a", "é", "\u200c"])
texts = st.one_of(st.sampled_from(AWKWARD), st.lists(pieces, max_size=25).map("".join), st.text())
LEVELS = ("word", "char", "byte", "bpe")


def assume_allowed(level: str, *texts: str) -> None:
    """Words that are kept for ends are refused: no such text can be spelled."""
    kept = [mark for mark in KEPT for text in texts for _ in places_of(mark, text)]
    assume(level != "word" or not kept)


def made(train: str, other: str, level: str) -> tuple[Vocab, list[str], smoothing.Smoothed, np.ndarray]:
    """Vocabulary, words and tables of a training text, and another text in its ids."""
    vocab = build_vocab(train, level=level, bpe_vocab_size=300)
    ids = {"train": vocab.encode(train), "valid": vocab.encode(other)}
    word_of, num_words, streams = number_texts(Texts(Corpus("x", train, other, ""), vocab, ids))
    counts = count_ngrams(streams["train"], num_words, 2)
    words = spell_words(spell_symbols(vocab), word_of, num_words)
    tables = smoothing.modified_kneser_ney(counts, discount_fallback=True).tables
    stream = streams["valid"]
    if level == "word":  # where <unk> is a word of the text it is not what is unknown
        own = spell_words(vocab.tokens, word_of, num_words)
        stream = look_up([other.encode()] if other else [], [word.encode() for word in own])
    return vocab, words, tables, stream


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60)
@given(texts.map(lambda text: text + "a"), texts)
@example(AWKWARD[0], AWKWARD[0])
@example(AWKWARD[1], AWKWARD[1])
@example(AWKWARD[3], AWKWARD[3])
@example("<UNK> a", "<unk> b \\<UNK>")
@example("a b", "\\<unk> <unk>")
@example("a", " ")
def test_a_model_and_its_file_score_alike(tmp_path_factory, level, train, other):
    assume_allowed(level, train, other)
    vocab, words, tables, stream = made(train, other, level)
    path = tmp_path_factory.mktemp("spelled") / "model.arpa"
    write_arpa(path, tables, words)
    found = read_arpa(path)
    assert found.words == words
    spelled = look_up([spell_text(vocab, other).encode()] if other else [], [w.encode() for w in found.words])
    np.testing.assert_array_equal(spelled, stream)
    np.testing.assert_allclose(score_words(found.tables, spelled), score_words(tables, stream), rtol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=50)
@given(texts)
def test_symbols_are_distinct_words_and_no_marks(level, text):
    assume_allowed(level, text)
    vocab = build_vocab(text, level=level, bpe_vocab_size=270)
    names = spell_symbols(vocab)
    assert len(set(names)) == len(names) == len(vocab)
    assert not {*MARKS, "<UNK>", "<eos>"} & set(names)
    assert all(name and not set(name) & set(" \t\r\n\0") for name in names)


def test_merged_symbols_like_marks():
    """Byte pairs merge into whatever is often: <s>, </s> and <unk> are then symbols of a text."""
    text = "<s><unk><eos></s>\\<s>" * 200
    vocab = build_vocab(text, level="bpe", bpe_vocab_size=290)
    names = spell_symbols(vocab)
    assert "".join(vocab.token_strings(vocab.encode(text))) == text
    assert not {*MARKS, "<eos>"} & set(names) and len(set(names)) == len(vocab)


def test_by_hand():
    words = build_vocab("a\u00ad <unk> <UNK> \\<unk>\n", level="word")
    assert (
        spell_text(words, "a\u00ad  <unk>\t<UNK>\n\n\\<unk> new")
        == "a\u00ad \\<unk> \\<UNK>\n\n\\\\<unk> new"
    )
    characters = build_vocab("a b\n", level="char")
    assert spell_symbols(characters) == ["\\<unk>", "\\n", "\\x20", "a", "b"]
    assert spell_text(characters, "a \\\n\0") == "a \\x20 \\ \\n \\x00"
    assert spell_text(Vocab("byte"), "é <") == "\\xc3 \\xa9 \\x20 <"
    with pytest.raises(ValueError, match="the text has the word </s>"):
        spell_text(words, "a </s>")

"""The text of a count model: read in pieces or as a whole, the same sentences of the same words."""

import os
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from lmseq.config.text import TextConfig
from lmseq.data.corpora import SPLITS
from lmseq.data.texts import load_texts
from lmseq.models.ngram import fit_counts
from lmseq.ngram.backoff import score_words
from lmseq.ngram.corpus import from_texts, load_counted
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, UNK_ID, count_ngrams
from lmseq.ngram.smoothing import modified_kneser_ney
from lmseq.scoring import score_stream

LINES = ["the tide is low and we wait", "nobody asks why the ferry is late", "we ask the tide", ""]


@pytest.fixture
def book(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "book.txt"
    path.write_text("".join(LINES[i] + "\n" for i in rng.integers(0, 4, 200)) + "a new word at the end\n")
    return str(path)


@pytest.mark.parametrize("min_count", [1, 5])
def test_words_in_pieces_are_the_words_of_the_whole_text(book, min_count):
    config = TextConfig(corpus=book, level="word", min_count=min_count, valid_fraction=0.1)
    counted, texts = load_counted(config), load_texts(config)
    assert counted.vocab == texts.vocab and counted.name == "book.txt"
    assert counted.facts() | {"train": None} != texts.facts()  # it counts the sentences' beginnings too
    for split in SPLITS:
        stream = counted.streams[split]
        # Every word of the text is that of its symbol.
        np.testing.assert_array_equal(stream[stream != BOS_ID], counted.word_of[texts.ids[split]])
        lines = (texts.ids[split] == texts.vocab.tokens.index("<eos>")).sum()
        assert (stream == BOS_ID).sum() == (stream == EOS_ID).sum() == lines
        assert counted.num_chars[split] == texts.num_chars(split)
        assert counted.sha256[split] == texts.facts()[split]["sha256"]


@pytest.mark.parametrize("level", ["byte", "char", "bpe"])
def test_without_lines_each_part_is_a_sentence(book, level):
    texts = load_texts(TextConfig(corpus=book, level=level, bpe_vocab_size=270))
    counted = from_texts(texts)
    for split in SPLITS:
        stream = counted.streams[split]
        assert (stream[0], stream[-1]) == (BOS_ID, EOS_ID)
        np.testing.assert_array_equal(stream[1:-1], counted.word_of[texts.ids[split]])
    used = np.unique(counted.streams["train"])
    assert used.max() == FIRST_WORD_ID + len(np.unique(texts.ids["train"])) - 1  # numbered as they appear
    assert counted.num_words <= FIRST_WORD_ID + len(texts.vocab)


def test_what_training_never_met_is_unknown(tmp_path):
    for split, text in zip(SPLITS, ("a b\nb a\n", "a c\n", "<unk>\n"), strict=True):
        (tmp_path / f"{split}.txt").write_text(text)
    counted = load_counted(TextConfig(corpus=str(tmp_path), level="word"))
    assert counted.streams["valid"].tolist() == [BOS_ID, FIRST_WORD_ID, UNK_ID, EOS_ID]
    assert counted.num_words == FIRST_WORD_ID + 2


@pytest.mark.parametrize("word", ["<s>", "</s>", "<eos>"])
def test_words_that_stand_for_something_else(tmp_path, word):
    path = tmp_path / "book.txt"
    path.write_text(f"a b {word} c\n" * 50)
    with pytest.raises(ValueError, match=f"the train part of book.txt has the word {word}, which is kept"):
        load_counted(TextConfig(corpus=str(path), level="word"))


def test_fractions_of_a_folder_are_refused(tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("a b\n")
    with pytest.raises(ValueError, match="has parts of its own"):
        load_counted(TextConfig(corpus=str(tmp_path), level="word", valid_fraction=0.2))


def test_the_first_order_that_one_more_does_not_make_better(book):
    texts = load_texts(TextConfig(corpus=book, valid_fraction=0.2))
    counted = from_texts(texts)
    counts = count_ngrams(counted.streams["train"], counted.num_words, 8)
    losses = {}
    for n in range(2, 9):
        tables = modified_kneser_ney(counts[:n], discount_fallback=True).tables
        losses[n] = -score_words(tables, counted.streams["valid"]).sum()
    best = fit_counts(texts, 8)
    rises = [n for n in range(2, 8) if losses[n + 1] >= losses[n]]
    assert best.order == (rises[0] if rises else 8)
    found = score_stream(best.model, best.params, texts.ids["valid"])
    assert found.size == texts.ids["valid"].size and np.isfinite(found).all()
    assert fit_counts(texts, 3).order <= 3


def test_counts_of_the_latest_tokens(tmp_path):
    """Texts with one end have one model of it; where there are no more tokens than that, it is of all."""
    fitted = {}
    for name, letters in (("one", "ab"), ("other", "ba")):
        (tmp_path / name).write_text(letters * 500 + "abba" * 125)
        texts = load_texts(TextConfig(corpus=str(tmp_path / name), test_fraction=0.0))
        fitted[name] = [fit_counts(texts, 3, most_tokens=most) for most in (300, 10**6, 0)]
    (few, *whole), (other, *_) = fitted.values()
    for one, another in ((few, other), whole):
        jax.tree.map(np.testing.assert_array_equal, one.params, another.params)
    assert few.num_bytes < whole[0].num_bytes or few.params.tables[0].log_prob.tolist() != (
        whole[0].params.tables[0].log_prob.tolist()
    )


def test_a_pipe_is_read_once(tmp_path, book):
    """As the file is: what cannot be read twice is not."""
    os.mkfifo(tmp_path / "pipe")
    data = Path(book).read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[data])
    writer.start()
    found = load_counted(TextConfig(corpus=str(tmp_path / "pipe"), level="word"))
    writer.join()
    expected = load_counted(TextConfig(corpus=book, level="word"))
    assert (found.sha256, found.vocab) == (expected.sha256, expected.vocab)


@pytest.mark.parametrize("text", ["a b c d e f\n" * 20, "é " * 60])
def test_a_byte_order_mark_is_no_symbol(tmp_path, text):
    """In a file that is read in pieces or as a whole, and in the files of a folder."""
    for name, mark in (("plain", ""), ("marked", "\ufeff")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.txt").write_text(mark + text, encoding="utf-8")
        for split in SPLITS:
            (tmp_path / name / f"{split}.txt").write_text(mark + text, encoding="utf-8")
    for end in ("", ".txt"):
        names = [str(tmp_path / (name + end)) for name in ("plain", "marked")]
        plain, marked = (load_counted(TextConfig(corpus=name, level="word")) for name in names)
        assert plain.sha256 == marked.sha256 and plain.vocab == marked.vocab
        plain, marked = (load_texts(TextConfig(corpus=name)) for name in names)
        assert plain.corpus[1:] == marked.corpus[1:] and plain.vocab == marked.vocab


@pytest.mark.parametrize("mark", ["<s>", "</s>", "<eos>"])
@pytest.mark.parametrize("part", SPLITS)
@pytest.mark.parametrize("load", [load_counted, load_texts])
def test_marks_are_refused_in_every_part(tmp_path, load, part, mark):
    """By neural models and by counts alike; within a word, and at other levels, they are text."""
    for split in SPLITS:
        ends = f" {mark}\n" if split == part else f" x{mark}\n"
        (tmp_path / f"{split}.txt").write_text("a <unk>" + ends)
    with pytest.raises(ValueError, match=f"^the {part} part of .* has the word {mark}, which is kept for"):
        load(TextConfig(corpus=str(tmp_path), level="word"))
    load(TextConfig(corpus=str(tmp_path), level="char"))


@pytest.mark.parametrize("min_count", [1, 2])
def test_what_the_training_text_lacks_is_counted(tmp_path, min_count):
    """`<unk>` is a word that this training text has; z it lacks; once is too rare for 2."""
    for split, text in zip(SPLITS, ("a a <unk> <unk> once\n", "a z <unk>\n", "once\nz z\n"), strict=True):
        (tmp_path / f"{split}.txt").write_text(text)
    config = TextConfig(corpus=str(tmp_path), level="word", min_count=min_count)
    counted, texts = load_counted(config), load_texts(config)
    expected = {"valid": 1, "test": 1 + min_count}
    assert counted.num_unknown == expected == {split: texts.num_unknown(split) for split in SPLITS[1:]}
    characters = load_texts(TextConfig(corpus=str(tmp_path)))
    assert characters.num_unknown("valid") == 1 and from_texts(characters).num_unknown["test"] == 2

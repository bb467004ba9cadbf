"""The text of a count model: read in pieces or as a whole, the same sentences of the same words."""

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

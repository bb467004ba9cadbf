"""The text of a language model: what a config names, split and numbered."""

import hashlib

import numpy as np
import pytest

from lmseq.config.text import TextConfig
from lmseq.data.corpora import CORPORA, SPLITS, CorpusFile, CorpusInfo
from lmseq.data.texts import corpus_facts, has_parts, load_texts, read_raw, read_splits

TEXT = "the tide is low and we wait\nnobody asks why the ferry is late\n" * 20


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "parts"
    path.mkdir()
    for split, text in zip(SPLITS, ("abc abd\n", "ab\n", "ax\n"), strict=True):
        (path / f"{split}.txt").write_text(text)
    return str(path)


@pytest.mark.parametrize("level", ["byte", "char", "word", "bpe"])
def test_the_parts_make_the_text_and_the_ids_make_the_parts(book, level):
    config = TextConfig(corpus=book, level=level, valid_fraction=0.1, test_fraction=0.2, bpe_vocab_size=300)
    texts = load_texts(config)
    assert "".join(getattr(texts.corpus, split) for split in SPLITS) == TEXT
    for split in SPLITS:
        assert texts.ids[split].dtype == np.int32
        assert texts.vocab.decode(texts.ids[split]).split() == getattr(texts.corpus, split).split()
        assert texts.num_chars(split) == len(getattr(texts.corpus, split))


def test_the_config_says_how_a_text_is_read(book):
    plain = load_texts(TextConfig(corpus=book))
    letters = load_texts(TextConfig(corpus=book, normalize="letters"))
    common = load_texts(TextConfig(corpus=book, min_count=60))
    assert len(common.vocab) < len(letters.vocab) == len(plain.vocab) - 1  # the line feed is a space there


def test_facts_of_the_normalised_text(folder):
    facts = load_texts(TextConfig(corpus=folder, normalize="letters")).facts()
    assert (facts["corpus"], facts["symbols"]) == ("parts", 6)  # <unk>, a blank and four letters
    assert facts["train"] == {
        "characters": 8,
        "tokens": 8,
        "sha256": hashlib.sha256(b"abc abd ").hexdigest(),
    }
    facts = corpus_facts(folder)
    assert len(facts.pop("sha256")) == 64 and facts == {"corpus": folder, "characters": 14}


def test_a_folder_keeps_its_parts(folder):
    texts = load_texts(TextConfig(corpus=folder))
    assert tuple(texts.corpus) == ("parts", "abc abd\n", "ab\n", "ax\n")
    assert texts.vocab.decode(texts.ids["test"]) == "a<unk>\n"  # x is not in the training text
    with pytest.raises(ValueError, match="parts has parts of its own: --valid_fraction and"):
        read_splits(TextConfig(corpus=folder, test_fraction=0.2))


def test_a_named_corpus_is_looked_for_in_both_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("lmseq.data.texts.cache_folder", lambda: tmp_path / "user")
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    file = CorpusFile("tide.txt", "http://127.0.0.1:9/tide.txt", digest)
    monkeypatch.setitem(CORPORA, "tide", CorpusInfo("tide", "public domain", "", "", {"all": file}))
    for place, given in (("data", "data_dir"), ("cache", "cache_dir"), ("user", None)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "tide.txt").write_text(TEXT)
        folders = {given: tmp_path / place} if given else {}
        assert read_raw("tide", **folders).parts == {"all": TEXT}
        assert len(load_texts(TextConfig(corpus="tide"), **folders).ids["train"]) == 0.9 * len(TEXT)
        (tmp_path / place / "tide.txt").unlink()


def test_what_comes_in_parts(book, folder):
    assert has_parts("ptb") and has_parts(folder)
    assert not any(map(has_parts, ("time_machine", "python_docs", book, "no_such_corpus")))


def test_the_help_names_every_corpus():
    [*names, last] = CORPORA
    meaning = TextConfig.__dataclass_fields__["corpus"].metadata["help"]
    assert meaning.startswith(f"{', '.join(names)} or {last}; or a text file; or a folder")

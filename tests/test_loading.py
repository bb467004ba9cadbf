"""What scripts say of a text beside reading it: fractions that flags ask for where they do nothing."""

import pytest

from experiments.text import loading
from lmseq.config.text import TextConfig
from lmseq.data.corpora import SPLITS


@pytest.fixture
def folder(tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("a b\n")
    return str(tmp_path)


def test_fractions_of_a_corpus_in_parts(folder, capsys):
    with pytest.raises(ValueError, match="has parts of its own: --valid_fraction"):
        loading.load_texts(TextConfig(corpus=folder), {"valid_fraction"})  # the default, but asked for
    texts = loading.load_texts(TextConfig(corpus=folder, valid_fraction=0.3))  # a preset's
    assert texts.corpus.valid == "a b\n"
    said = capsys.readouterr().err
    assert "4 / 4 / 4 characters (train / valid / test), 5 symbols" in said


def test_fractions_of_a_single_text(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("ab" * 50)
    config = TextConfig(corpus=str(path), valid_fraction=0.3)
    assert loading.check_fractions(config, {"valid_fraction"}) is config
    assert len(loading.load_texts(config).ids["valid"]) == 30

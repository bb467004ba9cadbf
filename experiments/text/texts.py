"""The text of a run: corpus, vocabulary, and the ids of each split."""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from experiments.frame import app
from lmseq.config.text import TextConfig
from lmseq.data.corpora import CORPORA, CorpusFile, RawCorpus, read_corpus
from lmseq.data.text import Corpus, Vocab, build_vocab, prepare_corpus


class Texts(NamedTuple):
    """The corpus, the vocabulary of its training text, and each split's ids on the host."""

    corpus: Corpus
    vocab: Vocab
    ids: dict[str, np.ndarray]

    def num_chars(self, split: str) -> int:
        return len(getattr(self.corpus, split))

    def facts(self) -> dict[str, Any]:
        """What a run was trained on: name, sizes, and SHA-256 of the normalised text of each split."""
        splits = {
            split: {
                "characters": self.num_chars(split),
                "tokens": ids.size,
                "sha256": hashlib.sha256(getattr(self.corpus, split).encode()).hexdigest(),
            }
            for split, ids in self.ids.items()
        }
        return {"corpus": self.corpus.name, "symbols": len(self.vocab), **splits}


def read_raw(corpus: str) -> RawCorpus:
    """A named corpus, or a file or folder, as it was written."""
    data_dir, cache_dir = app.data_folders()
    return read_corpus(corpus, data_dir=data_dir, cache_dir=cache_dir)


def corpora_here() -> list[str]:
    """The named corpora that can be read without a download."""
    folders = [folder for folder in app.data_folders() if folder]

    def is_here(files: Iterable[CorpusFile]) -> bool:
        return all(any((folder / file.filename).exists() for folder in folders) for file in files)

    return [name for name, info in CORPORA.items() if is_here(info.files.values())]


def corpus_facts(corpus: str) -> dict[str, Any]:
    """Name and characters of a text, which is read for it: what is missing is said before a run begins."""
    return {"corpus": corpus, "characters": sum(map(len, read_raw(corpus).parts.values()))}


def refuse_fractions(name: str) -> None:
    """ValueError where fractions were asked for of a corpus that comes in parts."""
    given = [app.FLAGS[flag].present for flag in ("valid_fraction", "test_fraction") if flag in app.FLAGS]
    if any(given):
        raise ValueError(f"{name} has parts of its own: --valid_fraction and --test_fraction do nothing")


def read_splits(data: TextConfig) -> Corpus:
    """The normalised splits of what the config names."""
    raw = read_raw(data.corpus)
    if "all" not in raw.parts:
        refuse_fractions(raw.name)
    return prepare_corpus(
        raw,
        normalize=data.normalize,
        valid_fraction=data.valid_fraction,
        test_fraction=data.test_fraction,
        whole_words=data.level == "word",
    )


def load_texts(data: TextConfig) -> Texts:
    """Read, split and tokenise what the config names, and say how much it is."""
    corpus = read_splits(data)
    vocab = build_vocab(
        corpus.train,
        level=data.level,
        normalize=data.normalize,
        min_count=data.min_count,
        bpe_vocab_size=data.bpe_vocab_size,
    )
    ids = {split: vocab.encode(getattr(corpus, split)) for split in ("train", "valid", "test")}
    sizes = " / ".join(f"{ids[split].size:,}" for split in ids)
    unit = "characters" if data.level == "char" else f"{data.level} tokens"
    app.say(f"{corpus.name}: {sizes} {unit} (train / valid / test), {len(vocab)} symbols")
    return Texts(corpus, vocab, ids)

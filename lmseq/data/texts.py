"""The text of a language model, ready to train on: corpus, vocabulary, and the ids of each split."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from lmseq.config.text import TextConfig
from lmseq.data.corpora import CORPORA, SPLITS, RawCorpus, read_corpus
from lmseq.data.marks import UNK, places_of
from lmseq.data.store import Stored, is_store, open_store, read_stored
from lmseq.data.tokens import Corpus, Vocab, build_vocab, prepare_corpus
from lmseq.files import cache_folder


class Texts(NamedTuple):
    """The corpus, the vocabulary of its training text, and the ids of train, valid and test, (T,).

    Of a text the ids are int32. Of a store they are memory maps of a smaller kind, and there is no text.
    """

    corpus: Corpus | Stored
    vocab: Vocab
    ids: dict[str, Integer[np.ndarray, "_"]]

    def num_chars(self, split: str) -> int:
        """Characters of the normalised text of a split."""
        return self.corpus.num_chars(split)

    def num_unknown(self, split: str) -> int:
        """Tokens of a split that the training text lacks, or has too rarely: they are scored as `<unk>`."""
        if isinstance(self.corpus, Stored):
            return self.corpus.num_unknown(split)
        if not self.vocab.unknown_ids:
            return 0
        number = int(np.count_nonzero(self.ids[split] == self.vocab.unknown_ids[0]))
        if self.vocab.level == "word" and next(places_of(UNK, self.corpus.train), None) is not None:
            number -= sum(1 for _ in places_of(UNK, getattr(self.corpus, split)))  # a word that is known
        return number

    def first_words(self) -> list[str]:
        """Words of the beginning of the validation text, but for the first, which may be cut."""
        if isinstance(self.corpus, Stored):
            return self.vocab.decode(self.ids["valid"][:100_000]).split()[1:]
        return self.corpus.valid[:100_000].split()[1:]

    def facts(self) -> dict[str, Any]:
        """What a model is trained on: name, sizes, and SHA-256 of the normalised text of each split."""
        splits = {
            split: {
                "characters": self.num_chars(split),
                "tokens": ids.size,
                "sha256": self.corpus.sha256(split),
            }
            for split, ids in self.ids.items()
        }
        return {"corpus": self.corpus.name, "symbols": len(self.vocab), **splits}


def read_raw(corpus: str, *, data_dir: Path | None = None, cache_dir: Path | None = None) -> RawCorpus:
    """A named corpus, or a file or folder, as it was written (see `read_corpus`, which says what raises).

    The files of a named corpus are looked for in data_dir, then in cache_dir, where they are downloaded to if
    they are in neither; None stands for `cache_folder()`. ValueError for a store, which holds no text.
    """
    if is_store(corpus):
        raise ValueError(f"{corpus} is a store of tokens, without their text: name the text itself")
    if corpus in CORPORA and CORPORA[corpus].files:
        cache_dir = cache_dir or cache_folder()
    return read_corpus(corpus, data_dir=data_dir, cache_dir=cache_dir)


def has_parts(corpus: str) -> bool:
    """Whether a text comes in training, validation and test parts, as some named ones and folders do."""
    if corpus in CORPORA:
        return "train" in CORPORA[corpus].files
    return os.path.isdir(corpus) and not is_store(corpus)


def stored_config(corpus: str) -> TextConfig:
    """The config of the texts of a store; ValueError for one that is damaged."""
    return TextConfig(corpus=corpus, **read_stored(corpus).settings)


def _load_stored(config: TextConfig) -> Texts:
    """The texts of a store; ValueError where it was made with other settings than the config has."""
    kept = read_stored(config.corpus).settings
    differing = [f"--{name}={value}" for name, value in kept.items() if getattr(config, name) != value]
    if differing:
        raise ValueError(
            f"{config.corpus} is a store made with {' '.join(differing)}, got other settings: "
            "leave them out, or make another store"
        )
    return Texts(*open_store(config.corpus))


def refuse_fractions(config: TextConfig, name: str) -> None:
    """ValueError where a config has fractions other than the defaults; of a corpus that has parts, `name`."""
    if (config.valid_fraction, config.test_fraction) != (TextConfig.valid_fraction, TextConfig.test_fraction):
        raise ValueError(f"{name} has parts of its own: --valid_fraction and --test_fraction do nothing")


def read_splits(config: TextConfig, *, data_dir: Path | None = None, cache_dir: Path | None = None) -> Corpus:
    """The normalised training, validation and test text of what the config names; folders as `read_raw` has.

    Raises ValueError as `read_corpus` and `prepare_corpus` do, and where a corpus with parts of its own
    should be split by other fractions than the defaults.
    """
    raw = read_raw(config.corpus, data_dir=data_dir, cache_dir=cache_dir)
    if "all" not in raw.parts:
        refuse_fractions(config, raw.name)
    return prepare_corpus(
        raw,
        normalize=config.normalize,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        whole_words=config.level == "word",
    )


def load_texts(
    config: TextConfig,
    *,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    vocab: Vocab | None = None,
) -> Texts:
    """Read, split and tokenise what the config names; the vocabulary is of the training text alone.

    A given `vocab` takes its place, of the same level and normalisation; a store must have been made with it.

    A named corpus is looked for in data_dir, then in cache_dir, and downloaded to cache_dir if it is in
    neither; without cache_dir that is the user's cache folder. A store is mapped, and nothing of it is read;
    `stored_config` has its settings. Raises ValueError as `read_splits`, `build_vocab` and `Vocab.encode` do,
    with the part that is at fault, as `open_store` does, and for a store made with other settings.
    """
    if vocab is not None:
        _check_vocab(config, vocab)
    if is_store(config.corpus):
        texts = _load_stored(config)
        if vocab not in (None, texts.vocab):
            raise ValueError(
                f"{config.corpus} is a store with a vocabulary of its own ({len(texts.vocab)} symbols), and "
                f"cannot be read with another ({len(vocab)}): name the text itself"
            )
        return texts
    corpus = read_splits(config, data_dir=data_dir, cache_dir=cache_dir)
    names = {split: f"the {split} part of {corpus.name}" for split in SPLITS}
    if vocab is None:
        vocab = build_vocab(
            corpus.train,
            name=names["train"],
            level=config.level,
            normalize=config.normalize,
            min_count=config.min_count,
            bpe_vocab_size=config.bpe_vocab_size,
        )
    ids = {split: vocab.encode(getattr(corpus, split), name=names[split]) for split in SPLITS}
    return Texts(corpus, vocab, ids)


def _check_vocab(config: TextConfig, vocab: Vocab) -> None:
    """ValueError where a vocabulary is of another level or normalisation than the config has."""
    for name in ("level", "normalize"):
        there, here = getattr(vocab, name), getattr(config, name)
        if there != here:
            raise ValueError(
                f"the vocabulary cannot be taken ({name}: {there} there, {here} here): give --{name}={there}"
            )


def corpus_facts(
    corpus: str, *, data_dir: Path | None = None, cache_dir: Path | None = None
) -> dict[str, Any]:
    """Name, number of characters and SHA-256 of a corpus, which is read for it; folders as `read_raw` has."""
    whole = "".join(read_raw(corpus, data_dir=data_dir, cache_dir=cache_dir).parts.values())
    return {"corpus": corpus, "characters": len(whole), "sha256": hashlib.sha256(whole.encode()).hexdigest()}

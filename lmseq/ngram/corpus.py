"""The text of a count model: marked sentences of word ids, and the vocabulary.

Words are read from their file in pieces, so that the text is never in memory as a whole; characters, bytes
and sub-words are taken from `Texts`.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from lmseq.config.text import TextConfig
from lmseq.data.corpora import (
    CORPORA,
    SPLITS,
    decoded,
    skip_order_mark,
    split_files,
    split_offsets,
)
from lmseq.data.pieces import Tally, pieces
from lmseq.data.store import is_store
from lmseq.data.texts import Texts, load_texts, read_splits, refuse_fractions
from lmseq.data.tokens import EOS, UNK, Vocab
from lmseq.ngram.counts import EOS_ID, FIRST_WORD_ID, UNK_ID, begin_sentences, mark_sentences
from lmseq.ngram.words import look_up, number_text


class Counted(NamedTuple):
    """Marked sentences of each split, as `count_ngrams` and `score_words` take them.

    name: of the corpus. vocab: the symbols of the text, V of them. word_of: the word of the sentences that
    each symbol stands for, int32 (V,), as `put_tables` takes it. num_words: distinct words, the three marks
    included. streams: ids of train, valid and test, int32 (T,). num_chars, sha256: of each split's text.
    num_unknown: tokens of valid and test that the training text lacks, or has too rarely.
    """

    name: str
    vocab: Vocab
    word_of: Int[np.ndarray, "vocab"]
    num_words: int
    streams: dict[str, Int[np.ndarray, "_"]]
    num_chars: dict[str, int]
    sha256: dict[str, str]
    num_unknown: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """What a model is made from: name, sizes, and SHA-256 of the text of each split."""
        splits = {
            split: {
                "characters": self.num_chars[split],
                "tokens": int(stream.size),
                "sha256": self.sha256[split],
            }
            for split, stream in self.streams.items()
        }
        return {"corpus": self.name, "symbols": len(self.vocab), **splits}


def load_counted(
    config: TextConfig, *, data_dir: Path | None = None, cache_dir: Path | None = None
) -> Counted:
    """Read, split and number what the config names; folders as of `load_texts`.

    Words are what stands between blanks, and each line is a sentence; at the other levels each split is one
    sentence. Raises ValueError as `load_texts` does, so for a part with `<s>`, `</s>` or `<eos>` as a word.
    """
    if config.level != "word" or is_store(config.corpus):
        return from_texts(load_texts(config, data_dir=data_dir, cache_dir=cache_dir))
    return _words(config, data_dir, cache_dir)


class NumberedTexts(NamedTuple):
    """`word_of`, `num_words` and `streams` of a `Counted`."""

    word_of: Int[np.ndarray, "vocab"]
    num_words: int
    streams: dict[str, Int[np.ndarray, "_"]]


def number_texts(texts: Texts) -> NumberedTexts:
    """The ids of texts, numbered anew as they appear; of words each line is a sentence, else each split."""
    train, eos = texts.ids["train"], texts.vocab.tokens.index(EOS) if texts.vocab.level == "word" else -1
    seen, first = np.unique(train, return_index=True)
    seen = seen[np.argsort(first)]
    rest = np.setdiff1d(np.arange(len(texts.vocab)), seen)
    rest = np.setdiff1d(rest, texts.vocab.unknown_ids)  # what training never met is the tables' own unknown
    ordinary = np.concatenate([seen[seen != eos], rest[rest != eos]]).astype(int)
    word_of = np.full(len(texts.vocab), UNK_ID, np.int32)
    word_of[ordinary] = FIRST_WORD_ID + np.arange(len(ordinary))
    if eos >= 0:
        word_of[eos] = EOS_ID

    def mark(words: np.ndarray) -> np.ndarray:
        return begin_sentences(words) if eos >= 0 or not words.size else mark_sentences([words])

    streams = {split: mark(word_of[ids]) for split, ids in texts.ids.items()}
    return NumberedTexts(word_of, FIRST_WORD_ID + len(ordinary), streams)


def from_texts(texts: Texts) -> Counted:
    """Texts as `load_counted` gives them, numbered by `number_texts`."""
    facts = texts.facts()
    return Counted(
        texts.corpus.name,
        texts.vocab,
        *number_texts(texts),
        {split: texts.num_chars(split) for split in SPLITS},
        {split: facts[split]["sha256"] for split in SPLITS},
        {split: texts.num_unknown(split) for split in SPLITS[1:]},
    )


def _checked(text: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The same pieces, which end between words; ValueError for what is not UTF-8."""
    offset = 0
    for piece in text:
        decoded(piece, name, offset)
        offset += len(piece)
        yield piece


def _words(text: TextConfig, data_dir: Path | None, cache_dir: Path | None) -> Counted:
    """Lines of words, in pieces straight from the file where they need no normalising."""
    name, sources = _sources(text, data_dir, cache_dir)
    names = {split: f"the {split} part of {name}" for split in SPLITS}
    tallies = {split: Tally(_checked(sources[split], names[split])) for split in SPLITS}
    train = number_text(tallies["train"], names["train"])
    counts = np.bincount(train.stream, minlength=FIRST_WORD_ID + len(train.words))
    spelled = [word.decode() for word in train.words]
    stream, words, written = train.stream, spelled, train.words
    if text.min_count > 1:
        stream, words = _without_rare(train.stream, spelled, counts, text.min_count)
        written = [word.encode() for word in words]
        counts = np.bincount(stream, minlength=FIRST_WORD_ID + len(words))
    ordinary = [(i, word) for i, word in enumerate(words, start=FIRST_WORD_ID) if word != UNK]
    ordinary.append((EOS_ID, EOS))
    ordinary.sort(key=lambda pair: (-counts[pair[0]], pair[1]))
    vocab = Vocab("word", text.normalize, (UNK, *(word for _, word in ordinary)))
    unknown = FIRST_WORD_ID + words.index(UNK) if UNK in words else UNK_ID
    word_of = np.array([unknown, *(i for i, _ in ordinary)], np.int32)
    streams, num_unknown = {"train": stream}, {}
    for split in SPLITS[1:]:
        found = look_up(tallies[split], written, names[split])
        num_unknown[split] = int(np.count_nonzero(found == UNK_ID))
        # What is too rare to be a word of its own is written <unk>, and counted as that word.
        streams[split] = np.where(found == UNK_ID, unknown, found) if text.min_count > 1 else found
    return Counted(
        name,
        vocab,
        word_of,
        FIRST_WORD_ID + len(words),
        streams,
        {split: tally.num_chars for split, tally in tallies.items()},
        {split: tally.sha256.hexdigest() for split, tally in tallies.items()},
        num_unknown,
    )


def _without_rare(
    stream: np.ndarray, words: list[str], counts: np.ndarray, min_count: int
) -> tuple[np.ndarray, list[str]]:
    """The stream with `<unk>` for each word that occurs less than min_count times."""
    kept = [i for i, word in enumerate(words) if counts[FIRST_WORD_ID + i] >= min_count or word == UNK]
    left = [words[i] for i in kept]
    if UNK not in left and len(left) < len(words):
        left.append(UNK)
    number = np.full(FIRST_WORD_ID + len(words), UNK_ID, np.int32)
    number[:FIRST_WORD_ID] = np.arange(FIRST_WORD_ID)
    number[FIRST_WORD_ID + np.array(kept, int)] = FIRST_WORD_ID + np.arange(len(kept))
    if UNK in left:
        number[number == UNK_ID] = FIRST_WORD_ID + left.index(UNK)
        number[UNK_ID] = UNK_ID
    return number[stream], left


def _sources(
    text: TextConfig, data_dir: Path | None, cache_dir: Path | None
) -> tuple[str, dict[str, Iterable[bytes]]]:
    """The pieces of each split, and the corpus's name."""
    path = Path(text.corpus)
    # What is no file, such as a pipe, can be read once only, so as a whole.
    if (
        text.normalize != "none"
        or text.corpus in CORPORA
        or not (os.path.isfile(path) or os.path.isdir(path))
    ):
        corpus = read_splits(text, data_dir=data_dir, cache_dir=cache_dir)
        return corpus.name, {split: [getattr(corpus, split).encode()] for split in SPLITS}
    if path.is_dir():
        refuse_fractions(text, path.resolve().name)
        return path.resolve().name, {split: _read(file) for split, file in split_files(path).items()}
    offsets = split_offsets(path, text.valid_fraction, text.test_fraction)
    return path.name, {split: _read(path, *offsets[split]) for split in SPLITS}


def _read(path: Path, start: int = 0, size: int = -1) -> Iterator[bytes]:
    """A part of a file in pieces, the whole of it without a byte order mark."""
    with path.open("rb") as file:
        file.seek(start or skip_order_mark(file))
        yield from pieces(file, size)

"""The texts of a run: where they are looked for, what flags may say of them, and how much there is."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

from experiments.frame.console import listed, say
from experiments.frame.start import data_folders
from experiments.text.preparing import kept_store
from lmseq.config import knobs
from lmseq.config.text import TextConfig
from lmseq.data import texts as data_texts
from lmseq.data.corpora import CORPORA, SPLITS, CorpusFile, RawCorpus
from lmseq.data.store import is_store
from lmseq.data.texts import Texts
from lmseq.data.tokens import Corpus, Vocab

FRACTIONS = frozenset({"valid_fraction", "test_fraction"})


def folders() -> dict[str, Any]:
    """Where corpora are looked for, as the functions of `lmseq.data.texts` take it."""
    data_dir, cache_dir = data_folders()
    return {"data_dir": data_dir, "cache_dir": cache_dir}


def read_raw(corpus: str) -> RawCorpus:
    """A named corpus, or a file or folder, as it was written."""
    return data_texts.read_raw(corpus, **folders())


def corpora_here() -> list[str]:
    """The named corpora that can be read without a download."""
    here = [folder for folder in data_folders() if folder]

    def is_here(files: Iterable[CorpusFile]) -> bool:
        return all(any((folder / file.filename).exists() for folder in here) for file in files)

    return [name for name, info in CORPORA.items() if is_here(info.files.values())]


def corpus_facts(corpus: str) -> dict[str, Any]:
    """Name and characters of a text, which is read for it: what is missing is said before a run begins."""
    return data_texts.corpus_facts(corpus, **folders())


def check_fractions(text: TextConfig, given: Set[str]) -> TextConfig:
    """The config; ValueError where given flags ask for fractions of a corpus that has parts of its own.

    Fractions that no flag gave are a preset's, and meant for the preset's corpus: of such a one they are
    left out.
    """
    if not data_texts.has_parts(text.corpus):
        return text
    if given & FRACTIONS:
        raise ValueError(
            f"{text.corpus} has parts of its own: --valid_fraction and --test_fraction do nothing"
        )
    return replace(text, **{flag: getattr(TextConfig, flag) for flag in FRACTIONS})


def text_of(config: Any) -> TextConfig:
    """The settings of a run's text, among its others."""
    of_text = TextConfig.__dataclass_fields__
    return TextConfig(**{name: value for name, value in knobs.to_flat(config).items() if name in of_text})


def stored_settings(corpus: str) -> dict[str, Any]:
    """The settings that a store of tokens was made with; none where the corpus is no store."""
    return knobs.to_flat(data_texts.stored_config(corpus)) if is_store(corpus) else {}


def say_unknown(name: str, of_split: Mapping[str, tuple[int, int]]) -> None:
    """A line on tokens that the training text lacks, of (unknown, all) by split; none without such."""
    shares = [
        f"{unknown:,} of {size:,} {split} tokens ({unknown / size:.2%})"
        for split, (unknown, size) in of_split.items()
        if unknown
    ]
    if shares:
        say(f"{name}: {' and '.join(shares)} are not in the training text, and are scored as <unk>")


def say_beyond(texts: Texts) -> None:
    """A line that names what a text has beyond the vocabulary of another run; none where there is nothing."""
    found = [texts.vocab.unknown(getattr(texts.corpus, split)) for split in SPLITS]
    beyond = tuple(dict.fromkeys(symbol for symbols in found for symbol in symbols))
    if beyond:
        say(f"{texts.corpus.name}: not in the vocabulary of --init_from, and read as <unk>: {listed(beyond)}")


def load_texts(text: TextConfig, given: Set[str] = frozenset(), vocab: Vocab | None = None) -> Texts:
    """Read, split and tokenise what the config names, and say how much it is.

    A long text becomes a store in the user's cache folder (`preparing.kept_store`), unless a vocabulary is
    given, of another run: then it is read into memory, and symbols that it has beyond those are said.
    """
    text = check_fractions(text, given)
    idle = sorted(given & {"min_count", "bpe_vocab_size"}) if vocab is not None else []
    if idle and not is_store(text.corpus):
        raise ValueError(f"--{idle[0]} does nothing here: the vocabulary is that of --init_from")
    kept = None if vocab is not None else kept_store(text)
    named = replace(text, corpus=str(kept)) if kept else text
    texts = data_texts.load_texts(named, **folders(), vocab=vocab)
    sizes = " / ".join(f"{ids.size:,}" for ids in texts.ids.values())
    unit = {"char": "characters", "ids": "ids"}.get(text.level, f"{text.level} tokens")
    say(f"{texts.corpus.name}: {sizes} {unit} (train / valid / test), {len(texts.vocab)} symbols")
    if vocab is not None and isinstance(texts.corpus, Corpus):
        say_beyond(texts)
        return texts
    held_out = {split: (texts.num_unknown(split), texts.ids[split].size) for split in SPLITS[1:]}
    say_unknown(texts.corpus.name, held_out)
    return texts

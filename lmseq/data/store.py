"""Token stores: the ids of a text as files that are mapped and never read as a whole.

A store is a folder with `train.bin`, `valid.bin` and `test.bin`, the ids one after the other in the smallest
of uint8, uint16 and uint32 (little endian) that holds the vocabulary; `vocab.json`; and `store.json`, which
says how the text was cut and numbered, how much of it there is, and the digests of all of it.

nanoGPT's `train.bin` and `val.bin` (uint16) are taken as they are: the ids mean nothing that is known here,
and there is no test part. Its `meta.pkl` is not read, as a pickle can run any program.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from lmseq.config.text import TextConfig
from lmseq.data.corpora import SPLITS
from lmseq.data.encoding import dtype_of
from lmseq.data.tokens import Vocab
from lmseq.files import read_json, read_text

VERSION = 1
FACTS, VOCAB = "store.json", "vocab.json"
SETTINGS = tuple(name for name in TextConfig.__dataclass_fields__ if name != "corpus")
NANO = {"train": "train.bin", "valid": "val.bin"}
NANO_DTYPE = np.dtype("<u2")
BLOCK = 1 << 24  # bytes read at once


class SplitFacts(NamedTuple):
    """What is known of a part: how much there is of it, how much that is unknown, and two digests.

    unknown: tokens that the vocabulary lacks. marks: words that are spelled `<unk>` in the text. sha256: of
    the normalised text's UTF-8. ids_sha256: of the file of ids.
    """

    tokens: int
    characters: int
    bytes: int
    unknown: int
    marks: int
    sha256: str
    ids_sha256: str


class Stored(NamedTuple):
    """What a store says of the text that it was made of: `Corpus` without the text itself."""

    name: str
    settings: dict[str, Any]
    splits: dict[str, SplitFacts]

    def num_chars(self, split: str) -> int:
        """Characters of the normalised text of a split."""
        return self.splits[split].characters

    def sha256(self, split: str) -> str:
        """SHA-256 of the normalised text's UTF-8."""
        return self.splits[split].sha256

    def num_unknown(self, split: str) -> int:
        """Tokens that are scored as `<unk>`; the word itself counts where the training text lacks it."""
        facts = self.splits[split]
        return facts.unknown + (0 if self.splits["train"].marks else facts.marks)


class Store(NamedTuple):
    """A store that is open: the ids of each split are memory maps, (T,)."""

    stored: Stored
    vocab: Vocab
    ids: dict[str, Integer[np.ndarray, "_"]]


def is_store(path: str | Path) -> bool:
    """Whether a path is a folder of tokens, ours or nanoGPT's."""
    return (Path(path) / FACTS).is_file() or _is_nano(Path(path))


def _is_nano(path: Path) -> bool:
    return not (path / FACTS).is_file() and all((path / file).is_file() for file in NANO.values())


def open_store(path: str | Path) -> Store:
    """Map the files of a store: nothing of them is read, except nanoGPT's, which say nothing of themselves.

    Raises ValueError for what is no store or damaged: a file cut short, a vocabulary of another store.
    """
    path = Path(path)
    if _is_nano(path):
        return _open_nano(path)
    stored = read_stored(path)
    text = read_text(path / VOCAB) if (path / VOCAB).is_file() else ""
    if hashlib.sha256(text.encode()).hexdigest() != _facts(path)["vocab_sha256"]:
        raise ValueError(f"{path / VOCAB} is not the vocabulary that the store was made with: make it again")
    vocab = Vocab.from_json(text)
    ids = {
        split: _map(path / f"{split}.bin", dtype_of(vocab), facts.tokens)
        for split, facts in stored.splits.items()
    }
    return Store(stored, vocab, ids)


def read_stored(path: str | Path) -> Stored:
    """What a store says of itself; its tokens are not looked at. Raises ValueError for a damaged one."""
    path = Path(path)
    if _is_nano(path):
        return Stored(path.resolve().name, {"level": "ids"}, {})
    facts = _facts(path)
    try:
        splits = {split: SplitFacts(**facts["splits"][split]) for split in SPLITS}
        return Stored(facts["name"], {name: facts[name] for name in SETTINGS}, splits)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path / FACTS} is damaged ({error}): make the store again") from None


def _facts(path: Path) -> dict[str, Any]:
    facts = read_json(path / FACTS)
    if not isinstance(facts, dict) or "vocab_sha256" not in facts:
        raise ValueError(f"{path / FACTS} is damaged: make the store again")
    if facts.get("version") != VERSION:
        raise ValueError(
            f"expected a store of version {VERSION} in {path}, got {facts.get('version')}: make it again"
        )
    return facts


def _map(file: Path, dtype: np.dtype, num_tokens: int) -> Integer[np.ndarray, "_"]:
    """The ids of a file, mapped."""
    expected, found = num_tokens * dtype.itemsize, file.stat().st_size if file.is_file() else 0
    if found != expected:
        raise ValueError(f"expected {expected:,} bytes in {file}, got {found:,}: make the store again")
    # A file of nothing cannot be mapped.
    return np.memmap(file, dtype, "r") if num_tokens else np.zeros(0, dtype)


def _open_nano(path: Path) -> Store:
    """nanoGPT's files, looked through once for the number of symbols and the digests."""
    found, symbols = {}, 0
    for split in SPLITS:
        file = path / NANO[split] if split in NANO else None
        size = file.stat().st_size if file else 0
        if size % NANO_DTYPE.itemsize or (file and not size):
            raise ValueError(f"expected ids of {NANO_DTYPE.itemsize} bytes in {file}, got {size:,} bytes")
        ids, sha256 = np.zeros(0, NANO_DTYPE), hashlib.sha256()
        if file:
            ids = _map(file, NANO_DTYPE, size // NANO_DTYPE.itemsize)
        for start in range(0, len(ids), BLOCK):
            block = ids[start : start + BLOCK]
            symbols = max(symbols, int(block.max()) + 1)
            sha256.update(block)
        digest = sha256.hexdigest()
        found[split] = ids, SplitFacts(len(ids), len(ids), size, 0, 0, digest, digest)
    vocab = Vocab("ids", tokens=tuple(map(str, range(symbols))))
    stored = read_stored(path)._replace(splits={split: facts for split, (_, facts) in found.items()})
    return Store(stored, vocab, {split: ids for split, (ids, _) in found.items()})

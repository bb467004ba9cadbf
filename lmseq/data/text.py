"""Normalise, tokenise, and the frozen Vocab, built from training text alone."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Int

from lmseq.data.corpora import RawCorpus, split_text

Level = Literal["byte", "char", "word", "bpe"]
Normalization = Literal["none", "letters"]
Ids = Int[np.ndarray, "time"]
UNK, EOS = "<unk>", "<eos>"


class Corpus(NamedTuple):
    """Normalised texts, ready to be tokenised; `test` is empty only where no test part was asked for."""

    name: str
    train: str
    valid: str
    test: str


def normalize_text(text: str, how: Normalization) -> str:
    """`none`: the text as it is; `letters`: lower case, and one space for each run of anything else.

    Only ASCII letters count as letters.
    """
    match how:
        case "none":
            return text
        case "letters":
            return re.sub("[^a-z]+", " ", text.lower())
        case _:
            raise ValueError(f"expected normalisation none or letters, got {how!r}")


def prepare_corpus(
    raw: RawCorpus, *, normalize: Normalization, valid_fraction: float, test_fraction: float, level: Level
) -> Corpus:
    """Normalise, then split: a corpus with parts of its own keeps them and ignores the fractions.

    At level `word` no word is cut in two. Raises ValueError as `corpora.split_text` does.
    """
    parts = {name: normalize_text(text, normalize) for name, text in raw.parts.items()}
    if "all" in parts:
        parts = split_text(parts["all"], valid_fraction, test_fraction, whole_words=level == "word")
    return Corpus(raw.name, **parts)


@dataclass(frozen=True)
class Vocab:
    """A bijection between V symbols and the ids 0 ... V - 1, and the way text is cut into symbols.

    `tokens` are the symbols in order of id (bytes: none are stored); `merges` is the serialised
    byte-pair encoder at level bpe.
    """

    level: Level
    normalize: Normalization = "none"
    tokens: tuple[str, ...] = ()
    merges: str = ""

    def __len__(self) -> int:
        """V, the number of symbols."""
        match self.level:
            case "byte":
                return 256
            case "bpe":
                return self._encoder.get_vocab_size()
            case _:
                return len(self.tokens)

    @cached_property
    def _encoder(self):
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.merges)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def _code_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted code points of the symbols of one character, and their ids."""
        known = sorted((ord(token), i) for token, i in self._ids.items() if len(token) == 1)
        points, ids = zip(*known, strict=True) if known else ((0x110000,), (0,))
        return np.array(points, np.uint32), np.array(ids, np.int32)

    def encode(self, text: str) -> Ids:
        """Ids of the normalised text, int32 (T,); a character or word outside V becomes `<unk>`."""
        text = normalize_text(text, self.normalize)
        match self.level:
            case "byte":
                return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
            case "char":
                points, ids = self._code_points
                codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
                places = np.minimum(np.searchsorted(points, codes), len(points) - 1)
                return np.where(points[places] == codes, ids[places], self._ids[UNK]).astype(np.int32)
            case "word":
                unk = self._ids[UNK]
                return np.array([self._ids.get(word, unk) for word in split_words(text)], np.int32)
            case _:
                return np.array(self._encoder.encode(text).ids, np.int32)

    def decode(self, ids: Int[np.ndarray, "time"] | Int[Array, "time"] | list[int]) -> str:
        """Text of ids (T,): the inverse of `encode` for bytes, known characters and bpe.

        Words are joined by single spaces and `<eos>` ends a line. Bytes that are no UTF-8, which a model
        may well write, become U+FFFD. Raises ValueError for an id outside 0 ... V - 1.
        """
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        if ids.size and not (0 <= ids.min() and ids.max() < len(self)):
            raise ValueError(f"expected ids in 0 ... {len(self) - 1}, got {ids.min()} ... {ids.max()}")
        match self.level:
            case "byte":
                return ids.astype(np.uint8).tobytes().decode("utf-8", errors="replace")
            case "char":
                return "".join(self.tokens[i] for i in ids)
            case "word":
                words = " ".join("\n" if self.tokens[i] == EOS else self.tokens[i] for i in ids)
                return re.sub(" ?\n ?", "\n", words)
            case _:
                return self._encoder.decode(ids.tolist(), skip_special_tokens=False)

    def token_strings(self, ids: Int[np.ndarray, "time"] | Int[Array, "time"]) -> list[str]:
        """One printable string a token, for listings; bytes outside ASCII as \\xNN."""
        ids = np.asarray(ids)
        match self.level:
            case "byte":
                return [repr(bytes([i]))[2:-1] for i in ids.tolist()]
            case "bpe":
                return [self._encoder.id_to_token(i) for i in ids.tolist()]
            case _:
                return [self.tokens[i].encode("unicode_escape").decode() for i in ids]

    def unknown(self, text: str) -> tuple[str, ...]:
        """The distinct characters or words of the normalised text that V lacks, in order of appearance."""
        if self.level not in ("char", "word"):
            return ()
        text = normalize_text(text, self.normalize)
        symbols = text if self.level == "char" else split_words(text)
        return tuple(symbol for symbol in dict.fromkeys(symbols) if symbol not in self._ids)

    def to_json(self) -> str:
        """The vocabulary as a JSON object."""
        fields = {"level": self.level, "normalize": self.normalize, "tokens": self.tokens, "merges": self.merges}
        return json.dumps(fields, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Vocab":
        """Inverse of `to_json`. Raises ValueError for text that is not such an object."""
        try:
            fields = json.loads(text)
            return cls(fields["level"], fields["normalize"], tuple(fields["tokens"]), fields["merges"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the vocabulary file is damaged: {type(error).__name__} {error}") from error


def split_words(text: str) -> list[str]:
    """Words between white space, with one `<eos>` for each line, the last one ended or not."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [word for line in lines for word in (*line.split(), EOS)]


def build_vocab(
    train_text: str,
    *,
    level: Level,
    normalize: Normalization = "none",
    min_count: int = 1,
    bpe_vocab_size: int = 1024,
) -> Vocab:
    """The vocabulary of (normalised) training text; nothing of any other text enters it.

    byte: the 256 bytes. char and word: `<unk>` and every symbol seen at least min_count times,
    characters by code point, words by falling count. bpe: byte-level byte-pair encoding (Sennrich et
    al. 2016), trained on this text to at most bpe_vocab_size symbols, 256 of them the bytes.
    Raises ValueError for an unknown level or a bpe_vocab_size below 256.
    """
    match level:
        case "byte":
            return Vocab(level, normalize)
        case "char":
            counts = Counter(normalize_text(train_text, normalize))
            symbols = sorted(symbol for symbol, count in counts.items() if count >= min_count)
            return Vocab(level, normalize, (UNK, *symbols))
        case "word":
            counts = Counter(split_words(normalize_text(train_text, normalize)))
            # A corpus may have <unk> among its words already: it is the same symbol.
            seen = [(-count, word) for word, count in counts.items() if count >= min_count and word != UNK]
            return Vocab(level, normalize, (UNK, *(word for _, word in sorted(seen))))
        case "bpe":
            return Vocab(level, normalize, (), _train_bpe(normalize_text(train_text, normalize), bpe_vocab_size))
        case _:
            raise ValueError(f"expected level byte, char, word or bpe, got {level!r}")


def _train_bpe(text: str, vocab_size: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 256:
        raise ValueError(f"expected bpe_vocab_size of at least 256, one for each byte, got {vocab_size}")
    encoder = Tokenizer(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    encoder.train_from_iterator(text.splitlines(keepends=True), trainer)
    return encoder.to_str()

"""Normalise, tokenise, and the frozen Vocab, built from training text alone."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from lmseq.data.corpora import RawCorpus, split_text
from lmseq.data.marks import LINE_END, UNK, refuse_marks

Level = Literal["byte", "char", "word", "bpe", "ids"]
Normalization = Literal["none", "letters"]
WORD = re.compile(r"[^ \t\r\0]+")  # within a line
EOS = LINE_END  # of a text of words: one for each line


class Corpus(NamedTuple):
    """Normalised texts, ready to be tokenised; `valid` or `test` is empty only where none was asked for."""

    name: str
    train: str
    valid: str
    test: str

    def num_chars(self, split: str) -> int:
        """Characters of a split."""
        return len(getattr(self, split))

    def sha256(self, split: str) -> str:
        """SHA-256 of a split's UTF-8."""
        return hashlib.sha256(getattr(self, split).encode()).hexdigest()


def normalize_text(text: str, how: Normalization) -> str:
    """`none`: the text as it is; `letters`: a-z in lower case, one space for each run of anything else.

    Only ASCII letters count as letters. Raises ValueError for any other `how`.
    """
    match how:
        case "none":
            return text
        case "letters":
            # Before lower(), which makes ASCII letters of others: the Kelvin sign becomes a k.
            return re.sub("[^A-Za-z]+", " ", text).lower()
        case _:
            raise ValueError(f"expected normalize none or letters, got {how!r}: choose one of the two")


def prepare_corpus(
    raw: RawCorpus,
    *,
    normalize: Normalization = "none",
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
    whole_words: bool = False,
) -> Corpus:
    """Normalise, then split, so that the fractions are of what is modelled.

    A corpus with parts of its own keeps them and ignores the fractions. With `whole_words`, no word is
    cut in two. Raises ValueError as `normalize_text` and `corpora.split_text` do.
    """
    parts = {name: normalize_text(text, normalize) for name, text in raw.parts.items()}
    if "all" in parts:
        parts = split_text(parts["all"], valid_fraction, test_fraction, whole_words=whole_words)
    return Corpus(raw.name, **parts)


@dataclass(frozen=True)
class Vocab:
    """A bijection between V symbols and the ids 0 ... V - 1, and the way text is cut into symbols.

    `tokens` are the characters or words in order of id, `<unk>` first; bytes and bpe store none. Where
    documents have ends, `<eos>` is a token too: the second character, or one more after the bytes or the
    symbols of bpe. No text encodes to it: who makes a stream of documents puts it there. `bpe_json` is the
    serialised byte-pair encoder of level bpe. At level `ids` nothing is known of the symbols: `tokens` are
    their numbers, and a text is numbers between blanks. Vocabularies are equal, and hash alike, when all of
    their fields are equal.
    """

    level: Level
    normalize: Normalization = "none"
    tokens: tuple[str, ...] = ()
    bpe_json: str = ""

    def __len__(self) -> int:
        """V, the number of symbols."""
        match self.level:
            case "byte":
                return 256 + len(self.tokens)
            case "bpe":
                return self._encoder.get_vocab_size() + len(self.tokens)
            case _:
                return len(self.tokens)

    @property
    def end_id(self) -> int | None:
        """The id of `<eos>`, which ends a line of words, or a document where documents have ends."""
        if self.level in ("byte", "bpe"):
            return len(self) - 1 if self.tokens else None
        return self._ids.get(EOS)

    @cached_property
    def _encoder(self):
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_str(self.bpe_json)
        except Exception as error:  # tokenizers raises nothing more particular
            raise ValueError(f"bpe_json is no encoder: {error}") from None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def id_of_code_point(self) -> Int[np.ndarray, "points"]:
        """Ids by code point, up to the largest known one; the last entry stands for all above it."""
        known = {ord(token): i for token, i in self._ids.items() if len(token) == 1}
        table = np.full(max(known, default=-1) + 2, self._ids[UNK], np.int32)
        table[list(known)] = list(known.values())
        return table

    @property
    def unknown_ids(self) -> tuple[int, ...]:
        """The id of `<unk>`, at the levels that have it: char and word."""
        return (0,) if self.level in ("char", "word") else ()

    def encode(self, text: str, *, name: str = "the text") -> Int[np.ndarray, "time"]:
        """Ids of the normalised text, int32 (T,); a character or word outside V becomes `<unk>`.

        Raises ValueError for a text with lone surrogates, which no encoding can write, and at level word for
        `<s>`, `</s>` and `<eos>`, which are kept for sentences' ends, or at level ids for what is no id: then
        the text is called `name`.
        """
        text = normalize_text(text, self.normalize)
        match self.level:
            case "byte":
                return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
            case "char":
                points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
                table = self.id_of_code_point
                return table[np.minimum(points, len(table) - 1)]
            case "word":
                refuse_marks(text, name)
                unk = self._ids[UNK]
                return np.array([self._ids.get(word, unk) for word in split_words(text)], np.int32)
            case "ids":
                return np.array([self._number(word, name) for word in text.split()], np.int32)
            case _:
                return np.array(self._encoder.encode(text).ids, np.int32)

    def _number(self, word: str, name: str) -> int:
        """The id that is written in a text of ids."""
        if word not in self._ids:
            raise ValueError(
                f"expected numbers from 0 to {len(self) - 1} in {name}, got {word[:20]!r}: the vocabulary is "
                "of bare ids, which no text can be encoded to or decoded from"
            )
        return self._ids[word]

    def decode(self, ids: ArrayLike) -> str:
        """Text of ids (T,), a list or any integer array: the inverse of `encode` where nothing is unknown.

        That holds for bytes, characters and bpe, while white space between words is not kept:
        they are joined by single spaces and `<eos>` ends a line; at the other levels it is written out. At
        level ids the text is numbers between spaces. Bytes that are not UTF-8, which a model may well write,
        become U+FFFD. Raises ValueError for ids that are not integers in 0 ... V - 1.
        """
        checked = self._checked(ids)
        if self.level not in ("byte", "bpe") or self.end_id is None:
            return self._spell(checked)
        ends = [-1, *(place for place, i in enumerate(checked) if i == self.end_id), len(checked)]
        return EOS.join(self._spell(checked[left + 1 : right]) for left, right in pairwise(ends))

    def _spell(self, checked: list[int]) -> str:
        match self.level:
            case "byte":
                return bytes(checked).decode("utf-8", errors="replace")
            case "char":
                return "".join(self.tokens[i] for i in checked)
            case "ids":
                return " ".join(self.tokens[i] for i in checked)
            case "word":
                words = " ".join("\n" if self.tokens[i] == EOS else self.tokens[i] for i in checked)
                return re.sub(" ?\n ?", "\n", words)
            case _:
                return self._encoder.decode(checked, skip_special_tokens=False)

    def token_strings(self, ids: ArrayLike) -> list[str]:
        r"""One printable string for each of ids (T,), for listings.

        A byte is itself if it is printable ASCII, else \xNN; a bpe symbol is spelt in the byte alphabet of
        its encoder, where Ġ is a space and Ċ a line feed; others have what is not printable escaped.
        Raises ValueError as `decode` does.
        """
        checked = self._checked(ids)
        match self.level:
            case "byte":
                return [EOS if i > 255 else chr(i) if 0x20 <= i < 0x7F else f"\\x{i:02x}" for i in checked]
            case "bpe":
                return [EOS if i == self.end_id else self._encoder.id_to_token(i) for i in checked]
            case _:
                return [_printable(self.tokens[i]) for i in checked]

    def _checked(self, ids: ArrayLike) -> list[int]:
        array = np.asarray(ids)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(
                f"expected integer ids (T,), got {array.dtype} {array.shape}: pass one stream of ids"
            )
        if array.size and not (0 <= array.min() and array.max() < len(self)):
            raise ValueError(
                f"expected ids in 0 ... {len(self) - 1}, got {array.min()} ... {array.max()}: "
                "decode with the vocabulary that encoded"
            )
        return array.tolist()

    def unknown(self, text: str) -> tuple[str, ...]:
        """The distinct characters or words of the normalised text that V lacks, in order of appearance."""
        if not self.unknown_ids:
            return ()
        text = normalize_text(text, self.normalize)
        symbols = text if self.level == "char" else split_words(text)
        return tuple(symbol for symbol in dict.fromkeys(symbols) if symbol not in self._ids)

    def to_json(self) -> str:
        """The vocabulary as one line of JSON, in ASCII."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Vocab":
        """Inverse of `to_json`. Raises ValueError for text that is not such an object."""
        try:
            vocab = cls(**_vocab_fields(json.loads(text)))
            len(vocab)  # builds the encoder of level bpe
            return vocab
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"expected a vocabulary written by Vocab.to_json, got text that is damaged ({error}): "
                "write it again, or restore it from a copy"
            ) from None


def _vocab_fields(fields: Any) -> dict[str, Any]:
    """What JSON gave, as the fields of a Vocab; ValueError unless they make one."""
    if not isinstance(fields, dict) or fields.keys() != {"level", "normalize", "tokens", "bpe_json"}:
        raise ValueError("not an object with level, normalize, tokens and bpe_json")
    level, tokens = fields["level"], fields["tokens"]
    if level not in get_args(Level) or fields["normalize"] not in get_args(Normalization):
        raise ValueError(f"level {level!r} or normalize {fields['normalize']!r} is unknown")
    if not (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)):
        raise ValueError("tokens are not a list of strings")
    if level in ("byte", "bpe"):
        fine = tokens in ([], [EOS])
    elif level == "ids":
        fine = tokens == [str(i) for i in range(len(tokens))]
    else:
        fine = tokens[:1] == [UNK] and len(set(tokens)) == len(tokens)
    if not fine:
        raise ValueError(f"tokens of level {level} do not start as they should, or one is there twice")
    if level == "char" and any(len(token) != 1 for token in tokens[1 + (tokens[1:2] == [EOS]) :]):
        raise ValueError("a token of level char is not one character")
    if not isinstance(fields["bpe_json"], str) or bool(fields["bpe_json"]) != (level == "bpe"):
        raise ValueError("bpe_json goes with level bpe, and only with it")
    return fields | {"tokens": tuple(tokens)}


def _printable(token: str) -> str:
    return token if token.isprintable() else token.encode("unicode_escape").decode("ascii")


def split_words(text: str) -> list[str]:
    """Words between blanks (`corpora.BLANKS`), with one `<eos>` for each line, the last one ended or not."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [word for line in lines for word in (*WORD.findall(line), EOS)]


def build_vocab(
    train_text: str,
    *,
    level: Level,
    normalize: Normalization = "none",
    min_count: int = 1,
    bpe_vocab_size: int = 1024,
    name: str = "the text",
) -> Vocab:
    """The vocabulary of (normalised) training text; nothing of any other text enters it.

    byte: the 256 bytes. char and word: `<unk>` and every symbol seen at least min_count times,
    characters by code point, words by falling count and then alphabetically; `<eos>` is kept however
    rare. bpe: byte-level byte-pair encoding (Sennrich et al. 2016), trained on this text to at most
    bpe_vocab_size symbols, 256 of them the bytes.
    Raises ValueError for an unknown level, a bpe_vocab_size below 256, and words that `Vocab.encode` refuses,
    where the text is called `name`.
    """
    text = normalize_text(train_text, normalize)
    match level:
        case "byte":
            return Vocab(level, normalize)
        case "char":
            return Vocab(level, normalize, char_tokens(Counter(text), min_count))
        case "word":
            refuse_marks(text, name)
            return Vocab(level, normalize, word_tokens(Counter(split_words(text)), min_count))
        case "bpe":
            return Vocab(level, normalize, bpe_json=train_bpe([text], bpe_vocab_size))
        case _:
            raise ValueError(f"expected level byte, char, word or bpe, got {level!r}: choose one of the four")


def char_tokens(counts: Mapping[str, int], min_count: int) -> tuple[str, ...]:
    """`<unk>`, and the characters that are there at least min_count times, by code point."""
    return (UNK, *sorted(symbol for symbol, count in counts.items() if count >= min_count))


def word_tokens(counts: Mapping[str, int], min_count: int) -> tuple[str, ...]:
    """`<unk>`, and the words that are there at least min_count times, by falling count; `<eos>` always."""
    # A corpus may have <unk> among its words already: it is the same symbol.
    kept = [word for word in counts if word != UNK and (counts[word] >= min_count or word == EOS)]
    return (UNK, *sorted(kept, key=lambda word: (-counts[word], word)))


def train_bpe(pieces: Iterable[str], vocab_size: int) -> str:
    """A byte-level byte-pair encoder, serialised: no normaliser, no added space, so that it is exact.

    Pieces of a text end where lines end, or the text does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 256:
        raise ValueError(
            f"expected bpe_vocab_size of at least 256, got {vocab_size}: each byte needs a symbol of its own"
        )
    encoder = Tokenizer(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    lines = (line for piece in pieces for line in piece.splitlines(keepends=True))
    encoder.train_from_iterator(lines, trainer)
    return encoder.to_str()

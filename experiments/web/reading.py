"""A text as models read it: its first tokens, how likely each was, and what was likelier in its place."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lmseq.alternatives import Alternatives
from lmseq.data.tokens import EOS, UNK, Vocab

NUM_TOKENS = 4000  # of a text that are shown
NUM_ALTERNATIVES = 5
NO_NUMBER = "nan"  # in the place of a log-probability: JSON has null for infinities and NaN alike
MOST_PRODUCTS = 2**26  # of tokens and symbols, which the work of large vocabularies is limited to
KINDS = ("first letter of a word", "letter within a word", "word", "number", "blank", "line end", "mark", UNK)


class Read(NamedTuple):
    """A model's reading of the text: its name, the run of the page that it is of, and what it thought.

    loss: nats a token of all that was scored of the text, as the run's own records have it; None where they
    do not say.
    """

    name: str
    run: int
    found: Alternatives
    loss: float | None


def tokens_shown(size: int, vocab_size: int, asked: int = NUM_TOKENS) -> int:
    """How many tokens of a text of so many are shown: fewer of a large vocabulary, whose work is more."""
    return min(size, asked, max(1, MOST_PRODUCTS // vocab_size))


def reading_of(vocab: Vocab, tokens: np.ndarray, of: int, models: Sequence[Read]) -> dict[str, Any]:
    """What a page has of the first tokens (T,) of a text with `of` tokens, as models read them.

    symbols: how each symbol is spelt that is shown. tokens: (T,) numbers of these. kind_of: (T,) numbers of
    kinds. most: how many could be shown. Of each model: nats, (T,) the log-probabilities; ids and id_nats,
    (T, A), the likeliest. A log-probability is null for -inf, and NO_NUMBER where a model gave none.
    """
    shown = [np.asarray(tokens)] + [each.found.ids.reshape(-1) for each in models]
    used = np.unique(np.concatenate(shown))
    spelt = spell(vocab, used)
    place = dict(zip(used.tolist(), range(len(used)), strict=True))
    numbers = [place[token] for token in np.asarray(tokens).tolist()]
    return {
        "level": vocab.level,
        "spaced": vocab.level in ("word", "ids"),
        "symbols": spelt,
        "tokens": numbers,
        "of": int(of),
        "most": tokens_shown(of, len(vocab), MOST_PRODUCTS),
        "kinds": list(KINDS),
        "kind_of": kinds_of([spelt[number] for number in numbers]),
        "models": [
            {
                "name": each.name,
                "run": each.run,
                "loss": each.loss,
                "nats": _rounded(each.found.log_probs),
                "ids": [[place[token] for token in row] for row in each.found.ids.tolist()],
                "id_nats": [_rounded(row) for row in each.found.id_log_probs],
            }
            for each in models
        ],
    }


def spell(vocab: Vocab, ids: np.ndarray) -> list[str]:
    """Each symbol as it stands in a text, as far as it can stand there alone; the end of a line is one."""
    match vocab.level:
        case "char" | "ids":
            return [vocab.tokens[i] for i in ids]
        case "word":
            return ["\n" if vocab.tokens[i] == EOS else vocab.tokens[i] for i in ids]
        case _:
            plain = [vocab.decode([i]) for i in ids]
            listed = vocab.token_strings(ids)
            return [name if "\ufffd" in text else text for text, name in zip(plain, listed, strict=True)]


def kinds_of(texts: Sequence[str]) -> list[int]:
    """Of each token of a text, the number of its kind in KINDS."""
    found, within = [], False
    for text in texts:
        kind = _kind(text, within)
        found.append(KINDS.index(kind))
        within = text[-1:].isalpha()
    return found


def _kind(text: str, within: bool) -> str:
    if text == UNK:
        return UNK
    bare = text.strip()
    if not bare:
        return "line end" if "\n" in text else "blank"
    if len(text) == 1 and text.isalpha():
        return "letter within a word" if within else "first letter of a word"
    if any(unicodedata.category(character).startswith("L") for character in bare):
        return "word"
    return "number" if any(character.isnumeric() for character in bare) else "mark"


def _rounded(log_probs: np.ndarray) -> list[float | str | None]:
    """With four decimals: a probability to one part in ten thousand; None for -inf."""
    rounded = np.round(np.asarray(log_probs, np.float64), 4).tolist()
    return [NO_NUMBER if math.isnan(each) else each if math.isfinite(each) else None for each in rounded]

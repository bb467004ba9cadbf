"""Two walls of counting, measured on a text: what was never seen has probability zero; tables grow."""

from typing import Any, NamedTuple

import numpy as np

from experiments.claims.power_law import fit_power_law
from lmseq.ngram.backoff import BackoffTables, score_words
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, count_ngrams, longest_sentence
from lmseq.ngram.smoothing import Smoothed, maximum_likelihood, modified_kneser_ney

MOST_ORDER = 5
SMALLEST = 1 << 9  # tokens of the shortest text whose n-grams are counted


def bytes_of(tables: BackoffTables) -> int:
    """Bytes of count tables whose numbers are all held in 32 bits."""
    return sum(4 * array.size for table in tables.orders for array in table)


# Zero probability


def fold(stream: np.ndarray, part: int, num_parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Marked sentences without one of `num_parts` contiguous parts, and that part.

    Sentences stay whole. Raises ValueError where there are fewer sentences than parts.
    """
    begins = np.flatnonzero(stream == BOS_ID)
    if len(begins) < num_parts:
        raise ValueError(f"expected {num_parts} lines of text at least, got {len(begins)}")
    cuts = np.append(begins[np.arange(num_parts) * len(begins) // num_parts], len(stream))
    held = slice(cuts[part], cuts[part + 1])
    return np.delete(stream, held), stream[held]


def close_vocabulary(
    train: np.ndarray, held: np.ndarray, num_words: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both streams with one word, the id `num_words`, for all that training has fewer than `least` times."""
    counts = np.bincount(train, minlength=num_words)
    number = np.where(counts >= least, np.arange(num_words), num_words).astype(np.int32)
    number[:FIRST_WORD_ID] = np.arange(FIRST_WORD_ID)
    return number[train], number[held]


def zero_share(log_probs: np.ndarray, stream: np.ndarray) -> float:
    """Share of sentences of which some word has probability zero; empty sentences do not count."""
    sentence = np.cumsum(stream == BOS_ID) - 1
    zeros = np.bincount(sentence, np.isneginf(log_probs)) > 0
    words = np.bincount(sentence, (stream != BOS_ID) & (stream != EOS_ID)) > 0
    return float(zeros[words].mean())


def zero_shares(train: np.ndarray, held: np.ndarray, num_words: int) -> dict[str, list[float]]:
    """For orders 1 to 5, the share of held-out sentences that counts give probability zero."""
    counts = count_ngrams(train, num_words, min(MOST_ORDER, longest_sentence(train)))
    found: dict[str, list[float]] = {"maximum_likelihood": [], "smoothed": []}
    for order in range(1, len(counts) + 1):
        smoothed: Smoothed = modified_kneser_ney(counts[:order], discount_fallback=True)
        for name, made in (
            ("maximum_likelihood", maximum_likelihood(counts[:order])),
            ("smoothed", smoothed),
        ):
            found[name].append(zero_share(score_words(made.tables, held), held))
    return found


# Storage


class Storage(NamedTuple):
    """Distinct n-grams by size of the text.

    tokens: sizes (S,). types: words V in so many tokens (S,). distinct: n-grams of order 1 ... 5, (S, 5).
    """

    tokens: list[int]
    types: list[int]
    distinct: list[list[int]]


def storage(stream: np.ndarray, num_words: int) -> Storage:
    """Of the beginnings of marked sentences, each twice as long as the one before, and of the whole."""
    doublings = int(np.log2(max(1, len(stream) / SMALLEST))) + 1
    sizes = [min(SMALLEST << k, len(stream)) for k in range(doublings)]
    if sizes[-1] < len(stream):
        sizes.append(len(stream))
    types, distinct = [], []
    for size in sizes:
        piece = stream[:size]
        counts = count_ngrams(piece, num_words, min(MOST_ORDER, longest_sentence(piece)))
        # The table of order 1 has a row for each word that there is.
        numbers = [int(np.sum(counts[0].count > 0)), *(len(table.word) for table in counts[1:])]
        types.append(numbers[0])
        distinct.append(numbers + [0] * (MOST_ORDER - len(numbers)))
    return Storage(sizes, types, distinct)


def growth_exponents(found: Storage) -> list[float]:
    """For each order b in `distinct n-grams = a tokens^b`, fitted over the sizes."""
    return [fit_power_law(found.tokens, column).exponent for column in np.array(found.distinct).T]


def table_bytes(stream: np.ndarray, num_words: int) -> list[int]:
    """Bytes of smoothed tables of orders 1 to 5, all numbers in 32 bits."""
    counts = count_ngrams(stream, num_words, min(MOST_ORDER, longest_sentence(stream)))
    return [
        bytes_of(modified_kneser_ney(counts[:order], discount_fallback=True).tables)
        for order in range(1, len(counts) + 1)
    ]


def text_figures(unit: dict[str, Any], counted: Any, num_parts: int, least: int) -> dict[str, Any]:
    """What one part of the text shows: of part -1 the whole, whose storage alone is measured."""
    stream, part = counted.streams["train"], unit["part"]
    if unit["wall"] == "zeros":
        train, held = fold(stream, part, num_parts)
        return zero_shares(*close_vocabulary(train, held, counted.num_words, least), counted.num_words + 1)
    if part < 0:
        return storage(stream, counted.num_words)._asdict() | {
            "bytes": table_bytes(stream, counted.num_words)
        }
    found = storage(fold(stream, part, num_parts)[1], counted.num_words)
    return found._asdict() | {"exponents": growth_exponents(found)}

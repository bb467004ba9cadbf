"""Back-off tables: a trie of plain arrays, and what is read from it.

With h' for h without its first word, the probability of a word is the one stored for the longest context
in which the word was seen, times the weights of the longer contexts that exist:

    p(w | h) = p(hw) stored, if hw is in the table;    b(h) p(w | h') otherwise, b(h) = 1 if h is not in it

A history is known by the rank, in the table of each order, of the n-gram it ends with; a further word takes
each rank to that of a child, one order up. So a whole text is looked up one order at a time, not one word
at a time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmseq.files import release
from lmseq.ngram.counts import BOS_ID, LARGE

ENTRIES_A_WORD = 16  # to make keys of so many takes about as long as to look a word up without
Fallback = Literal["shorter", "unigram"]
# Instead of a rank:
UNSEEN = -1  # of an n-gram that is not in the table
OUTSIDE = -2  # of one that is longer than the sentence up to there
Context = tuple[
    Int[np.ndarray, "time"], Int[np.ndarray, "time"]
]  # ranks of contexts, and of words behind them


class OrderTable(NamedTuple):
    """The n-grams of one order, sorted by (prefix, word), E entries.

    first: entries first[p] ... first[p + 1] - 1 extend the entry p of the order below, int32; for order 1 it
    is (0, E). word: the last word's id, int32 (E,). log_prob: ln p(word | prefix), float64 (E,), of `<s>`
    -inf. log_backoff: ln b, float64 (E,); empty at the highest order, which nothing follows.
    """

    first: Int[np.ndarray, "below"]
    word: Int[np.ndarray, "entry"]
    log_prob: Float[np.ndarray, "entry"]
    log_backoff: Float[np.ndarray, "entry"]


@dataclass(frozen=True, eq=False)
class BackoffTables:
    """A count model of order N: one table for each n = 1 ... N.

    log_unseen: ln of the weight of a context that is not in the table; 0 for all but stupid back-off.
    fallback: `unigram` for the one model that goes from a context straight to unigrams.
    """

    orders: tuple[OrderTable, ...]
    log_unseen: float = 0.0
    fallback: Fallback = "shorter"

    @property
    def order(self) -> int:
        """N."""
        return len(self.orders)

    @property
    def vocab_size(self) -> int:
        """Types V, `<unk>`, `<s>` and `</s>` among them."""
        return len(self.orders[0].word)

    @property
    def num_ngrams(self) -> list[int]:
        """Entries of each order."""
        return [len(table.word) for table in self.orders]

    @property
    def num_bytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for table in self.orders for array in table)

    @cached_property
    def _keys(self) -> dict[int, Int[np.ndarray, "entry"]]:
        return {}

    @cached_property
    def _asked(self) -> Counter[int]:
        return Counter()

    def keys(self, n: int, num_words: int) -> Int[np.ndarray, "entry"] | None:
        """(prefix, word) of each entry of order n >= 2 as one int64, ascending, to look words up in.

        None as long as they are not worth making, which depends on how many words have been looked up so far,
        `num_words` more now; and of large tables.
        """
        table = self.orders[n - 1]
        self._asked[n] += num_words
        if (
            n not in self._keys
            and len(table.word) < LARGE
            and self._asked[n] * ENTRIES_A_WORD >= len(table.word)
        ):
            prefix = np.repeat(np.arange(len(table.first) - 1), np.diff(table.first))
            self._keys[n] = (prefix << self.word_bits) | table.word
        return self._keys.get(n)

    @property
    def word_bits(self) -> int:
        """Bits of a word id."""
        return max(1, self.vocab_size - 1).bit_length()

    def is_proper(self) -> bool:
        """Whether these are probabilities; the scores of stupid back-off are not."""
        return self.log_unseen == 0.0


def check_shapes(tables: BackoffTables) -> None:
    """ValueError unless the tables make a trie."""
    below = 1
    for n, table in enumerate(tables.orders, start=1):
        size, last = len(table.word), n == tables.order
        lengths = [len(array) for array in table]
        if lengths != [below + 1, size, size, 0 if last else size] or table.first[-1] != size:
            raise ValueError(f"the arrays of order {n} do not fit together")
        below = size
    if not tables.orders:
        raise ValueError("no tables in it")


def find_child(
    tables: BackoffTables, n: int, prefix: Int[np.ndarray, "time"], word: Int[np.ndarray, "time"]
) -> Int[np.ndarray, "time"]:
    """Rank in order n of the n-gram of a prefix, a rank one order down, and a word: int64 (T,).

    UNSEEN where the table has none, OUTSIDE where the prefix is.
    """
    keys = tables.keys(n, len(prefix))
    if keys is None:
        return _bisect(tables.orders[n - 1], prefix, word)
    wanted = (prefix << tables.word_bits) | word
    place = np.searchsorted(keys, wanted)
    # Clipped: what is larger than all keys is not equal to the last of them either.
    found = keys[np.minimum(place, len(keys) - 1)] == wanted if len(keys) else np.zeros(len(place), bool)
    return np.where(found, place, np.where(prefix == OUTSIDE, OUTSIDE, UNSEEN))


def _bisect(
    table: OrderTable, prefix: Int[np.ndarray, "time"], word: Int[np.ndarray, "time"]
) -> Int[np.ndarray, "time"]:
    """As `find_child`, without keys: each prefix's own entries are halved until one word is left."""
    inside = prefix >= 0
    low = np.where(inside, table.first[np.maximum(prefix, 0)], 0).astype(np.int64)
    high = np.where(inside, table.first[np.maximum(prefix, 0) + 1], 0).astype(np.int64)
    end = high
    while (open_ := low < high).any():
        middle = (low + high) // 2
        less = table.word[np.minimum(middle, len(table.word) - 1)] < word
        low, high = np.where(open_ & less, middle + 1, low), np.where(open_ & ~less, middle, high)
    found = (low < end) & (table.word[np.minimum(low, len(table.word) - 1)] == word)
    release(table)
    return np.where(found, low, np.where(prefix == OUTSIDE, OUTSIDE, UNSEEN))


def find_ranks(
    tables: BackoffTables, stream: Int[np.ndarray, "time"], known: Sequence[Int[np.ndarray, "time"]] = ()
) -> list[Int[np.ndarray, "time"]]:
    """For n = 1 ... N, the rank of the n-gram that ends at each word of a stream of marked sentences.

    UNSEEN where the table has none, OUTSIDE where the sentence has fewer words before. int64 (T,) each.
    known: those of the first orders, where tables of the same n-grams have given them.
    """
    ranks = list(known) or [np.asarray(stream, np.int64)]
    begins = ranks[0] == BOS_ID
    for n in range(len(ranks) + 1, tables.order + 1):
        rank = find_child(tables, n, _before(ranks[-1]), ranks[0])
        rank[begins] = OUTSIDE
        ranks.append(rank)
    return ranks


def _before(ranks: Int[np.ndarray, "time"]) -> Int[np.ndarray, "time"]:
    """Of each word, the rank that the word before it has."""
    return np.concatenate([[OUTSIDE], ranks[:-1]])


def _at(
    values: Float[np.ndarray, "entry"],
    ranks: Int[np.ndarray, "time"],
    otherwise: Float[np.ndarray, "time"] | float,
) -> Float[np.ndarray, "time"]:
    """Values of entries, and something else where there is no entry."""
    found = values[np.maximum(ranks, 0)] if len(values) else np.zeros(len(ranks))
    return np.where(ranks >= 0, found, otherwise)


def score_words(
    tables: BackoffTables,
    stream: Int[np.ndarray, "time"],
    word: int | None = None,
    known: Sequence[Int[np.ndarray, "time"]] = (),
) -> Float[np.ndarray, "time"]:
    """ln p of each word of a stream of marked sentences, given its sentence up to there, float64 (T,).

    Or of one word in the place of each. Zero at `<s>`, which is given, not predicted. known: as `find_ranks`
    takes and gives them.
    """
    if not len(stream):
        return np.zeros(0)
    ranks = find_ranks(tables, stream, known)
    words = ranks[0] if word is None else np.full(len(stream), word, np.int64)

    def contexts() -> Iterator[Context]:
        for n in range(2, tables.order + 1):
            context = _before(ranks[n - 2])
            yield context, ranks[n - 1] if word is None else find_child(tables, n, context, words)

    return np.where(ranks[0] == BOS_ID, 0.0, back_off(tables, words, contexts()))


def back_off(
    tables: BackoffTables, words: Int[np.ndarray, "time"], contexts: Iterable[Context]
) -> Float[np.ndarray, "time"]:
    """ln p of words (T,), each after a context of its own, float64 (T,).

    contexts: for n = 2 ... N, the rank of the context of n - 1 words, and that of the word behind it.
    """
    unigram = total = tables.orders[0].log_prob[words]
    for n, (context, rank) in enumerate(contexts, start=2):
        table, below = tables.orders[n - 1], tables.orders[n - 2]
        weight = _at(below.log_backoff, context, tables.log_unseen)
        backed_off = weight + (total if tables.fallback == "shorter" else unigram)
        unfound = np.where(context == OUTSIDE, total, backed_off)
        total = _at(table.log_prob, rank, unfound)
        if len(table.word) >= LARGE:  # what was looked at need not stay in memory
            release([*table, *below])
    return total

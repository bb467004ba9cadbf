"""The interpolation that every estimator is made by: from counts and what is taken from them to tables.

With a(hw) the count of a word w after a context h, and h' for h without its first word,

    p(w | h) = (a(hw) - d(a(hw)) [seen]) / Z(h) + b(h) p(w | h')
    Z(h) = sum_x a(hx) + e + t #(h)       b(h) = (sum_x d(a(hx)) + e + t #(h)) / Z(h)

where #(h) words were seen after h: a discount d is taken from what was seen, or an amount e, or t for each
distinct word, is added to what was not. Unigrams fall back to the uniform distribution over all words but
`<s>`. Where nothing follows h in the table, b(h) = 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmseq.compiled import num_cores
from lmseq.files import release
from lmseq.ngram.backoff import BackoffTables, Fallback, OrderTable
from lmseq.ngram.counts import BOS_ID, CHUNK, UNK_ID, Column, OrderCounts, side_by_side


class Rule(NamedTuple):
    """What an order takes from seen words or adds for unseen ones: d(1), d(2), d(3 and more); e; t."""

    discounts: tuple[float, float, float] = (0.0, 0.0, 0.0)
    added: float = 0.0
    added_per_word: float = 0.0


class _Chunk(NamedTuple):
    """Entries with all that have the same prefixes, and the prefixes [low, high) that they end."""

    entries: slice
    low: int
    high: int


def _chunks(prefix: Int[np.ndarray, "entry"], num_prefixes: int) -> Iterator[tuple[_Chunk, int]]:
    """Chunks, of which some together have CHUNK entries, and the entries and prefixes of each."""
    start, low, size = 0, 0, max(CHUNK // (num_cores() + 1), 1)
    while start < len(prefix):
        last = prefix[min(start + size, len(prefix)) - 1]
        stop = int(np.searchsorted(prefix, last, side="right"))
        high = int(last) + 1 if stop < len(prefix) else num_prefixes
        yield _Chunk(slice(start, stop), low, high), stop - start + high - low
        start, low = stop, high
    if low < num_prefixes:
        yield _Chunk(slice(len(prefix), len(prefix)), low, num_prefixes), num_prefixes - low


class _Part(NamedTuple):
    """What becomes of the entries of a chunk: p and ln p of each; of each prefix, ln b and its entries."""

    prob: Float[np.ndarray, "_"]
    log_prob: Float[np.ndarray, "_"]
    log_backoff: Float[np.ndarray, "_"]
    children: Int[np.ndarray, "_"]


def _interpolate_chunk(
    table: OrderCounts,
    taken: Int[np.ndarray, "entry"],
    rule: Rule,
    threshold: int,
    lower: Float[np.ndarray, "_"],
    by: Int[np.ndarray, "entry"],
    chunk: _Chunk,
) -> tuple[int, _Part]:
    """Where a chunk begins, and the module's formula for its entries: a in `taken`, p(w | h') in `lower`.

    by: where in `lower` the p(w | h') of each entry stands. What occurs at most `threshold` times has no
    share of its own; its back-off weight has it.
    """
    number, other = taken[chunk.entries], lower[by[chunk.entries]]
    place, size = table.prefix[chunk.entries] - chunk.low, chunk.high - chunk.low
    seen = number > 0
    discount = np.array([0.0, *rule.discounts])[np.minimum(number, 3)]
    own = number - discount
    freed = discount + rule.added_per_word * seen
    if threshold:
        gone = table.count[chunk.entries] <= threshold
        freed, own = freed + np.where(gone, own, 0.0), np.where(gone, 0.0, own)
    total = np.bincount(place, number + rule.added_per_word * seen, size) + rule.added
    weight = (np.bincount(place, freed, size) + rule.added) / np.where(total > 0, total, 1.0)
    weight[total == 0] = 1.0
    prob = own / np.where(total > 0, total, 1.0)[place] + weight[place] * other
    with np.errstate(divide="ignore"):
        part = _Part(prob, np.log(prob), np.log(weight), np.bincount(place, minlength=size))
    return chunk.entries.start, part


def interpolate(
    counts: Sequence[OrderCounts],
    taken: Iterable[Int[np.ndarray, "_"]],
    rules: Sequence[Rule],
    *,
    interpolate_unigrams: bool = True,
    fallback: Fallback = "shorter",
    prune: Sequence[int] = (),
    folder: Path | None = None,
) -> BackoffTables:
    """Tables of the module's formula: a from `taken`, d, e and t from a rule an order.

    Without `interpolate_unigrams` all that unigrams leave goes to `<unk>`. prune: n-grams that occur at most
    so often are left out, order by order, and their share goes to the back-off weight. With a folder the
    tables are files there.
    """
    orders: list[OrderTable] = []
    lower = unigram = _below_unigrams(len(counts[0].word), interpolate_unigrams)
    thresholds = _thresholds(prune, len(counts))
    for n, (table, a, rule) in enumerate(zip(counts, taken, rules, strict=True), start=1):
        below = 1 if n == 1 else len(counts[n - 2].word)
        size, real = len(table.word), np.float64
        first = Column(folder, f"{n}.first", below + 1)
        prob, log_prob = (Column(folder, f"{n}.{name}", size, real) for name in ("prob", "log_prob"))
        log_backoff = Column(folder, f"{n - 1}.log_backoff", below, real)
        # Of unigrams `lower` is by word, as `unigram` is; of higher orders by the rank of the suffix.
        of_suffix = n > 1 and fallback == "shorter"
        backed_off, by = (lower, table.suffix) if of_suffix else (unigram, table.word)
        work = partial(_interpolate_chunk, table, a, rule, thresholds[n - 1], backed_off, by)
        for begin, part in side_by_side(work, _chunks(table.prefix, below), 2 * CHUNK):
            prob.append(part.prob)
            log_prob.append(part.log_prob)
            log_backoff.append(part.log_backoff)
            first.append(begin + np.cumsum(part.children) - part.children)
        first.append(np.array([len(table.word)]))
        weights = log_backoff.finish()
        if n > 1:
            orders[-1] = orders[-1]._replace(log_backoff=weights)
        lower = prob.finish()
        unigram = lower if n == 1 else unigram
        release([*table, *(orders[-1] if orders else ()), lower])
        orders.append(OrderTable(first.finish(), table.word, log_prob.finish(), np.zeros(0)))
    tables = BackoffTables(tuple(orders), fallback=fallback)
    return _pruned(tables, counts, thresholds) if any(thresholds) else tables


def _below_unigrams(vocab_size: int, interpolate_unigrams: bool) -> Float[np.ndarray, "vocab"]:
    """What unigrams fall back to: uniform over all words but `<s>`, or `<unk>` alone."""
    base = np.zeros(vocab_size)
    if interpolate_unigrams:
        base[:] = 1.0 / (vocab_size - 1)
        base[BOS_ID] = 0.0
    else:
        base[UNK_ID] = 1.0
    return base


def _thresholds(prune: Sequence[int], order: int) -> list[int]:
    """One threshold an order, the last one going on; ValueError where they make no trie."""
    given = [*prune, *[prune[-1] if prune else 0] * (order - len(prune))]
    if len(given) > order or given[0] != 0 or sorted(given) != given:
        raise ValueError(
            f"expected pruning thresholds for orders 1 to {order}, 0 first and never falling, got "
            f"{', '.join(map(str, prune))}: unigrams stay, and a shorter n-gram stays where a longer one does"
        )
    return given


def _pruned(tables: BackoffTables, counts: Sequence[OrderCounts], thresholds: Sequence[int]) -> BackoffTables:
    """The tables without n-grams that occur too rarely; contexts stay, being as frequent as what follows."""
    orders, kept_below = [], np.ones(1, bool)
    for table, count, threshold in zip(tables.orders, counts, thresholds, strict=True):
        kept = count.count > threshold if threshold else np.ones(len(table.word), bool)
        # Entries kept before each entry, looked up where each surviving prefix's entries begin.
        before = np.append(0, np.cumsum(kept, dtype=np.int32))
        first = np.append(before[table.first[:-1]][kept_below], before[-1]).astype(np.int32)
        rest = (array[kept] if len(array) else array for array in table[1:])
        orders.append(OrderTable(first, *rest))
        kept_below = kept
    return replace(tables, orders=tuple(orders))

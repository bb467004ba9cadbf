"""Counting n-grams of all orders by sorting, and the tables that come of it: a trie in arrays.

An n-gram is the pair (its first n - 1 words, its last word). The first part is itself an entry of the table
below, so it is a number there, its rank; the pair is one integer, and sorting those integers groups equal
n-grams. The rank in sorted order is what the next order's pairs are made of:

    text           <s>  a   b   a   b  </s>
    order 1 rank    1   3   4   3   4   2        ids are ranks
    order 2 pair    .  1,3 3,4 4,3 3,4 4,2       (rank of what ends one before, word)

Sorted by (prefix, word), the entries that extend a prefix are neighbours: a trie. The rank, at the same
position, of the n-gram without its first word is the suffix link.

The pairs are sorted in ranges of prefixes, some of them side by side, so that only so many are at work at
once (or as many as one prefix has); with a folder, the tables lie in files there and are mapped, not held.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int, Num
from numpy.typing import DTypeLike

from lmseq.compiled import num_cores
from lmseq.files import release

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2  # the first words of every count vocabulary: <unk>, <s>, </s>
FIRST_WORD_ID = 3
SORTED_AT_ONCE = 1 << 19  # pairs; a sort in the cache is twice as fast as one that is not
MOST_RANGES = 16  # of prefixes in an order: each costs a look at the whole text
CHUNK = 1 << 20  # entries of a table that are looked at together
LARGE = 1 << 24  # entries of a table of which there should be no copy in 64 bits
Piece, Done = TypeVar("Piece"), TypeVar("Done")


class OrderCounts(NamedTuple):
    """The distinct n-grams of one order, sorted by (prefix, word), E entries, int32 each.

    prefix: rank of the first n - 1 words in the order below; zeros for order 1. word: the last word's id.
    count: occurrences. suffix: rank in the order below of the last n - 1 words; zeros for order 1.
    """

    prefix: Int[np.ndarray, "entry"]
    word: Int[np.ndarray, "entry"]
    count: Int[np.ndarray, "entry"]
    suffix: Int[np.ndarray, "entry"]


def begin_sentences(ids: Int[np.ndarray, "_"]) -> Int[np.ndarray, "time"]:
    """`<s>` in front of each sentence of ids that has `</s>` behind it, int32 (T,); the last may be open."""
    if not len(ids):
        return np.zeros(0, np.int32)
    after = np.flatnonzero(ids[:-1] == EOS_ID) + 1
    return np.insert(ids.astype(np.int32, copy=False), np.append(0, after), BOS_ID)


def mark_sentences(sentences: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "time"]:
    """`<s> w ... </s>` of each sentence of word ids, one after the other, int32 (T,)."""
    ended = [np.append(sentence, EOS_ID) for sentence in sentences]
    return begin_sentences(np.concatenate([np.zeros(0, np.int32), *ended]).astype(np.int32))


def longest_sentence(stream: Int[np.ndarray, "time"]) -> int:
    """Words of the longest sentence of a stream, marks included: the highest order that can be counted."""
    starts = np.flatnonzero(stream == BOS_ID)
    return int(np.diff(np.append(starts, stream.size)).max(initial=0))


class Groups(NamedTuple):
    """Equal keys put together: the distinct ones ascending, how many of each, where one of each stands.

    ranks: of each key, its place among the distinct ones.
    """

    distinct: Int[np.ndarray, "entry"]
    count: Int[np.ndarray, "entry"]
    example: Int[np.ndarray, "entry"]
    ranks: Int[np.ndarray, "time"]


def group(keys: Int[np.ndarray, "time"]) -> Groups:
    """Group int64 keys of at least 0 by sorting.

    Where a key and its position fit 63 bits together they are sorted as one number, which is several times
    faster than sorting positions by key.
    """
    size = len(keys)
    position_bits = max(1, size - 1).bit_length()
    if size and int(keys.max()).bit_length() + position_bits <= 63:
        ordered = keys << position_bits
        ordered |= np.arange(size)
        ordered.sort()
        order = (ordered & ((1 << position_bits) - 1)).astype(np.int32 if size < 2**31 else np.int64)
        ordered >>= position_bits
    else:
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
    new = np.ones(size, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    ranks = np.empty(size, np.int32)
    ranks[order] = np.cumsum(new, dtype=np.int32) - 1
    return Groups(ordered[starts], np.diff(np.append(starts, size)), order[starts], ranks)


class Column:
    """An array of at most so many entries that grows by pieces, in memory or in a file of a folder."""

    def __init__(self, folder: Path | None, name: str, most: int, dtype: DTypeLike = np.int32) -> None:
        self.path, self.dtype, self.size = folder and folder / name, dtype, 0
        self.file = self.path.open("wb") if self.path else None
        # A system that gives memory when it is written to gives no more than is filled.
        self.array = np.empty(0 if folder else most, dtype)

    def append(self, piece: Num[np.ndarray, "_"]) -> None:
        """Put a piece behind those before."""
        if self.file:
            self.file.write(np.ascontiguousarray(piece, self.dtype).data)
        else:
            self.array[self.size : self.size + len(piece)] = piece
            self.size += len(piece)

    def finish(self) -> Num[np.ndarray, "_"]:
        """The whole, mapped if it lies in a file."""
        if self.file:
            self.file.close()
            if self.path.stat().st_size:
                return np.memmap(self.path, self.dtype, "r+")
        self.array.resize(self.size, refcheck=False)
        return self.array


def side_by_side(
    work: Callable[[Piece], Done], pieces: Iterable[tuple[Piece, int]], most: int
) -> Iterator[Done]:
    """What a function makes of each piece, in order, by all cores: NumPy needs no lock of Python's to sort.

    pieces: with their sizes. Those that are at work or done come to at most `most` together, or are one.
    """
    waiting: deque[tuple[Future[Done], int]] = deque()
    total = 0
    with ThreadPoolExecutor(num_cores()) as pool:
        for piece, size in pieces:
            while waiting and total + size > most:
                found, ended = waiting.popleft()
                yield found.result()
                total -= ended
            waiting.append((pool.submit(work, piece), size))
            total += size
        for found, _ in waiting:
            yield found.result()


def ranges(size: int, step: int = CHUNK) -> Iterator[slice]:
    """0 ... size in consecutive slices of at most `step`."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _prefix_ranges(counts: Int[np.ndarray, "entry"], at_once: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Ranges of ranks that cover a table, with about `at_once` occurrences or a little of it, and these."""
    step = max(1, len(counts) >> 20)  # ranks that are not looked at one by one
    totals = np.add.reduceat(counts, np.arange(0, len(counts), step), dtype=np.int64)
    before = np.append(0, np.cumsum(totals))
    cuts = 1 + np.flatnonzero(np.diff(before[:-1] // at_once))
    for low, high in itertools.pairwise([0, *cuts.tolist(), len(totals)]):
        yield (low * step, min(high * step, len(counts))), int(before[high] - before[low])


class _Counted(NamedTuple):
    """What is counted of a range of prefixes: where its n-grams end, the rank of each, and the entries."""

    ends: Int[np.ndarray, "_"]
    ranks: Int[np.ndarray, "_"]
    entries: OrderCounts


def _count_range(
    stream: Int[np.ndarray, "time"],
    ranks: Int[np.ndarray, "time"],
    word_bits: int,
    bounds: tuple[int, int],
) -> _Counted:
    """The n-grams whose prefixes have ranks in [low, high); ranks: of what ends at each position."""
    low, size = bounds[0], np.uint32(bounds[1] - bounds[0])
    # An n-gram ends wherever an (n - 1)-gram ended one before in the same sentence.
    places = [
        part.start
        + np.flatnonzero(((ranks[:-1][part] - low).view(np.uint32) < size) & (stream[1:][part] != BOS_ID))
        for part in ranges(len(stream) - 1)
    ]
    ends = np.concatenate(places) if places else np.zeros(0, np.int64)
    del places
    keys = (ranks[ends] - low).astype(np.int64) << word_bits
    ends += 1
    keys |= stream[ends]
    found = group(keys)
    prefix, word = (found.distinct >> word_bits) + low, found.distinct & ((1 << word_bits) - 1)
    suffix = ranks[ends[found.example]]
    return _Counted(ends, found.ranks, OrderCounts(prefix, word, found.count, suffix))


def _count_order(
    n: int,
    stream: Int[np.ndarray, "time"],
    ranks: Int[np.ndarray, "time"],
    below: OrderCounts,
    word_bits: int,
    folder: Path | None,
    at_once: int,
) -> tuple[OrderCounts, Int[np.ndarray, "time"]]:
    """The table of order n, and at each position the rank of the n-gram that ends there, -1 for none."""
    columns = [Column(folder, f"{n}.{name}", len(stream)) for name in OrderCounts._fields]
    later, num_entries = np.full(len(stream), -1, np.int32), 0
    work = partial(_count_range, stream, ranks, word_bits)
    each = max(at_once // (num_cores() + 1), 1)
    for found in side_by_side(work, _prefix_ranges(below.count, each), at_once):
        later[found.ends] = found.ranks + np.int32(num_entries)
        for column, piece in zip(columns, found.entries, strict=True):
            column.append(piece)
        num_entries += len(found.entries.word)
    return OrderCounts(*(column.finish() for column in columns)), later


def count_ngrams(
    stream: Int[np.ndarray, "time"],
    vocab_size: int,
    order: int,
    *,
    folder: Path | None = None,
    at_once: int = 0,
) -> list[OrderCounts]:
    """Counts of orders 1 ... N of a stream of sentences as `mark_sentences` makes it, ids below V.

    All windows of `<s> w ... </s>` of length n are n-grams of order n, and none crosses a sentence. Order 1
    has an entry for every id, whether it occurs or not; `<unk>` never occurs. About `at_once` pairs are
    sorted at a time, by all cores together (0: what is fastest); with a folder the tables of higher orders
    are files there. Raises ValueError for an empty stream, one with `<unk>` in it, and for an order below 1
    or above the length of the longest sentence with its marks.
    """
    if not stream.size:
        raise ValueError("expected at least one sentence to count, got an empty text")
    stream = np.asarray(stream, np.int32)
    longest = longest_sentence(stream)
    if not 1 <= order <= longest:
        raise ValueError(
            f"expected an order from 1 to {longest}, the longest sentence with its marks, got {order}"
        )
    unigrams = np.bincount(stream, minlength=vocab_size).astype(np.int32)
    if unigrams[UNK_ID]:
        raise ValueError("expected a text without <unk>: what stands for rare words is a word of its own")
    at_once = at_once or (num_cores() + 1) * max(SORTED_AT_ONCE, len(stream) // MOST_RANGES)
    zeros = np.zeros(vocab_size, np.int32)
    tables = [OrderCounts(zeros, np.arange(vocab_size, dtype=np.int32), unigrams, zeros)]
    ranks, word_bits = stream, max(1, vocab_size - 1).bit_length()
    for n in range(2, order + 1):
        table, ranks = _count_order(n, stream, ranks, tables[-1], word_bits, folder, at_once)
        release(table)
        tables.append(table)
    return tables


def adjusted_counts(tables: Sequence[OrderCounts]) -> Iterator[Int[np.ndarray, "_"]]:
    """a(g) of every entry, order by order: int32 (E,).

    Occurrences at the highest order and of what begins with `<s>`; else the number of distinct words that
    stand to the left of g, which is the number of entries one order up whose suffix is g. As unigrams, `<s>`
    has 0 (Kneser and Ney 1995; Chen and Goodman 1998).
    """
    begins = slice(BOS_ID, BOS_ID + 1)  # the entries that begin with <s> are neighbours
    for n, table in enumerate(tables, start=1):
        if n > 1:
            begins = slice(*np.searchsorted(table.prefix, [begins.start, begins.stop]).tolist())
        if n < len(tables):
            adjusted = _tally(tables[n].suffix, len(table.word))
            release(tables[n])
            adjusted[begins] = table.count[begins]
        else:
            adjusted = table.count
        yield predicted(adjusted, n)


def _tally(ranks: Int[np.ndarray, "_"], size: int) -> Int[np.ndarray, "entry"]:
    """How often each of 0 ... size - 1 occurs, int32."""
    tally = np.zeros(size, np.int32)
    for part in ranges(len(ranks), LARGE):  # of which bincount makes a copy in 64 bits
        np.add(tally, np.bincount(ranks[part], minlength=size), out=tally, casting="unsafe")
    return tally


def predicted(counts: Int[np.ndarray, "entry"], n: int) -> Int[np.ndarray, "entry"]:
    """Counts of order n without those of what is never predicted: as a unigram, `<s>` has 0."""
    if n > 1:
        return counts
    counts = counts.copy()
    counts[BOS_ID] = 0
    return counts

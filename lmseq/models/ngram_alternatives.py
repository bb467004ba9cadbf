"""What a count model thought likely in the place of each token: by NumPy, with nothing to compile."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from lmseq.alternatives import Alternatives
from lmseq.files import release
from lmseq.models.ngram import NgramModel
from lmseq.ngram.backoff import OUTSIDE, BackoffTables, find_ranks
from lmseq.ngram.counts import BOS_ID, begin_sentences
from lmseq.types import Tokens

MOST_ENTRIES = 2**19  # of the distributions that are held at once
BLOCK = 64  # symbols that are looked at together


def ngram_alternatives(
    model: NgramModel,
    tables: BackoffTables,
    word_of: Int[np.ndarray, "vocab"],
    tokens: Tokens,
    count: int,
) -> Alternatives:
    """As `alternatives.alternatives` of a model made of tables by `put_tables`, which has the same `word_of`.

    Raises ValueError for an empty text.
    """
    if not len(tokens):
        raise ValueError("expected at least one token, got an empty text")
    ids, count = np.asarray(tokens, np.int64), min(count, len(word_of))
    stream = begin_sentences(np.asarray(word_of)[ids])
    contexts = [ranks[:-1][stream[1:] != BOS_ID] for ranks in find_ranks(tables, stream)[: tables.order - 1]]
    parts, begin = [], 0
    for rows in _distributions(model, tables, np.asarray(word_of), contexts, len(ids)):
        came = rows[np.arange(len(rows)), ids[begin : begin + len(rows)]]
        likeliest = _first(rows, count)
        order = np.argsort(-np.take_along_axis(rows, likeliest, axis=1), axis=1, kind="stable")
        likeliest = np.take_along_axis(likeliest, order, axis=1)
        parts.append((came, likeliest, np.take_along_axis(rows, likeliest, axis=1)))
        begin += len(rows)
    log_probs, likeliest, theirs = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Alternatives(log_probs.astype(np.float32), likeliest.astype(np.int32), theirs.astype(np.float32))


def _first(rows: Float[np.ndarray, "_ vocab"], count: int) -> Int[np.ndarray, "_ alternative"]:
    """The ids of the largest in each row, ascending; of equal ones the smallest ids, as `lax.top_k` has them.

    Counts give many symbols the same probability, and a partition would choose any of them.
    """
    size, blocks = rows.shape[1], -(-rows.shape[1] // BLOCK)
    if blocks < count:
        return _first_of(rows, count)
    # So many blocks have a symbol that is not below the least of the largest of their maxima.
    maxima = np.maximum.reduceat(rows, np.arange(0, size, BLOCK), axis=1)
    bounds = np.partition(maxima, blocks - count, axis=1)[:, blocks - count]
    found = np.empty((len(rows), count), np.int64)
    for row, bound, place in zip(rows, bounds, found, strict=True):
        ids = np.flatnonzero(row >= bound)
        place[:] = ids[_first_of(row[None, ids], count)[0]]
    return found


def _first_of(rows: Float[np.ndarray, "_ vocab"], count: int) -> Int[np.ndarray, "_ alternative"]:
    """`_first`, by a partition of whole rows."""
    least = -np.partition(-rows, count - 1, axis=1)[:, count - 1 : count]
    above, equal = rows > least, rows == least
    room = count - above.sum(axis=1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(taken)[1].reshape(len(rows), count)


def _distributions(
    model: NgramModel,
    tables: BackoffTables,
    word_of: Int[np.ndarray, "vocab"],
    contexts: list[Int[np.ndarray, "time"]],
    length: int,
) -> Iterator[Float[np.ndarray, "_ vocab"]]:
    """ln p of all V symbols after each context, piece by piece, as `NgramModel.readout` has them."""
    size = max(1, MOST_ENTRIES // tables.vocab_size)
    for begin in range(0, length, size):
        end = min(begin + size, length)
        words = _words(tables, [ranks[begin:end] for ranks in contexts], end - begin)
        rows = words[:, word_of]
        for word in model.also_unknown:
            rows[:, 0] = np.logaddexp(rows[:, 0], words[:, word])
        left = 1.0 - np.exp(words[:, list(model.impossible)]).sum(axis=1)
        yield rows - np.log(np.where(left > 0.0, left, 1.0))[:, None]


def _words(
    tables: BackoffTables, contexts: list[Int[np.ndarray, "time"]], length: int
) -> Float[np.ndarray, "time words"]:
    """ln p of every word of the tables after contexts, which are given by their ranks in each order."""
    unigram = tables.orders[0].log_prob
    total = np.broadcast_to(unigram, (length, len(unigram)))
    for below, table, context in zip(tables.orders, tables.orders[1:], contexts, strict=False):
        known = np.maximum(context, 0)
        weight = np.where(context >= 0, below.log_backoff[known], tables.log_unseen)
        lower = total if tables.fallback == "shorter" else unigram
        total = np.where((context == OUTSIDE)[:, None], total, lower + weight[:, None])
        firsts = table.first[known].astype(np.int64)
        counts = np.where(context >= 0, table.first[known + 1] - firsts, 0)
        entries = np.repeat(firsts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        total[np.repeat(np.arange(length), counts), table.word[entries]] = table.log_prob[entries]
        release([*table, *below])
    return total

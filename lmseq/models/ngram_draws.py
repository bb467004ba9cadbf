"""Words drawn from back-off tables entry by entry, at a cost that does not grow with the vocabulary.

A draw is proposed and refused until one is accepted. A proposal takes one of the orders n = 1 ... N, in
proportion to what the entries of the history's context h_n have together, times the back-off weights of the
longer contexts; then one of these entries in proportion to its probability; and is refused if its word was
seen after a longer context. So each word is accepted from one order alone, the highest in which it was seen,
with probability in proportion to

    b(h_N) ... b(h_(n+1)) p(w | h_n) stored,

which is the tables' p(w | h). That holds whatever the numbers are: nothing has to sum to one. Words that are
not to come are refused too, and leave the others' proportions (von Neumann 1951, rejection).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, UInt

from lmseq.recurrence import library
from lmseq.types import PRNGKey

ROUNDS = 64  # proposals are made so often at most
FEW = 32  # rows that are always proposed for together
UNIT = 2.0**31  # probability 1 as a whole number


class DrawTables(NamedTuple):
    """What draws look up beside the tables.

    cumulative: probabilities of all entries, order after order, summed from the first, uint32 (E + 1,), in
    units of 2^-31 and modulo 2^32: of a context's entries, which are neighbours, the difference is exact.
    symbol_of: the symbol that stands for each word, int32 (words,), or -1.
    """

    cumulative: UInt[Array, "entry"]
    symbol_of: Int[Array, "words"]


class Levels(NamedTuple):
    """The entries low ... high - 1, of all, of each of N contexts, int32 (B, N), and ln of their weights."""

    low: Int[Array, "batch order"]
    high: Int[Array, "batch order"]
    log_weight: Float[Array, "batch order"]


def draw_tables(
    tables: Sequence[Any], word_of: Int[Array, "vocab"], also_unknown: Sequence[int]
) -> DrawTables | None:
    """What draws look up, from `first` and `log_prob` of each order; None of 2^31 - 1 entries or more.

    Made on the host: each probability is rounded to float32, and to half a unit. Where the entries of a
    context sum to more than 1, which are no probabilities, the unit is as much larger.
    """
    if sum(len(table.word) for table in tables) >= UNIT - 1:
        return None
    probs, most = [np.exp(np.asarray(table.log_prob)) for table in tables], 1.0
    for table, each in zip(tables, probs, strict=True):
        sums = np.append(0.0, np.cumsum(each, dtype=np.float64))[np.asarray(table.first)]
        most = max(most, float(np.diff(sums).max(initial=0.0)))
    units = [np.zeros(1, np.uint32), *(np.rint(each * (UNIT / most)).astype(np.uint32) for each in probs)]
    cumulative = np.cumsum(np.concatenate(units), dtype=np.uint32)
    symbol_of = np.full(len(probs[0]), -1, np.int32)
    symbol_of[np.asarray(word_of)] = np.arange(len(word_of))
    symbol_of[list(also_unknown)] = 0
    return DrawTables(jnp.asarray(cumulative), jnp.asarray(symbol_of))


def bisect(
    values: Array,
    base: ArrayLike,
    wanted: Array,
    low: Int[Array, "*dims"],
    high: Int[Array, "*dims"],
    most: int,
) -> Int[Array, "*dims"]:
    """The first of low ... high - 1, `most` or fewer, with values - base >= wanted; high if there is none."""
    last = values.shape[0] - 1

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2  # their sum may be more than an int32 holds
        less, is_open = values[jnp.minimum(middle, last)] - base < wanted, low < high
        return jnp.where(is_open & less, middle + 1, low), jnp.where(is_open & ~less, middle, high)

    return lax.fori_loop(0, most.bit_length(), halve, (low, high))[0]


def each_row(function: Callable[..., Any], *rows: Array) -> Any:
    """A function of numbers for each of B rows, (B,): side by side, but on a CPU one row after the other.

    There XLA makes one function of a short loop over numbers, and shares the lookups of a few rows side by
    side out to threads, which takes longer than the lookups.
    """

    def one_by_one(*rows: Array) -> Any:
        return lax.map(lambda row: function(*row), rows)

    return lax.platform_dependent(*rows, cpu=one_by_one, default=jax.vmap(function))


def take(values: Array, places: Int[Array, "*dims"]) -> Array:
    """values[places], by `each_row`."""
    return each_row(lambda place: values[place], places.reshape(-1)).reshape(places.shape)


def draw_words(
    key: PRNGKey,
    tables: DrawTables,
    orders: Sequence[Any],
    levels: Levels,
    carry: Int[Array, "batch context"],
    look_up: Callable[[Int[Array, "rows context"], Int[Array, "rows"]], Int[Array, "rows context"]],
    most: int,
    never: tuple[int, ...],
) -> tuple[Int[Array, "batch"], Int[Array, "batch context"]]:
    """A word for each of B rows, and its ranks in orders 2 ... N after the row's contexts; or -1 for none.

    orders: the tables, of which `first` and `word` are read. look_up: the ranks of words after contexts.
    most: entries of one context. never: symbols that are refused. A word is -1 where ROUNDS proposals were
    refused: to draw it in another way leaves its distribution as it is, as what is accepted does not depend
    on when. Each number of [0, 1) that takes an order has 23 bits, and one that takes an entry 32. On a CPU
    compiled rounds are taken where `make native` left them, to the same words.
    """
    batch_size, refused = carry.shape[0], (-1, *never)
    size = min(batch_size, max(FEW, batch_size // 4))
    before = take(tables.cumulative, levels.low)
    mass = take(tables.cumulative, levels.high) - before
    log_weight = levels.log_weight - jnp.max(levels.log_weight, axis=1, keepdims=True)
    bounds = jnp.cumsum(jnp.exp(log_weight) * mass.astype(jnp.float32), axis=1)
    whole = bounds, mass, before, levels.low, levels.high, carry
    words = [table.word for table in orders]

    def by_xla(bits, drawn, ranks):
        waits, place, parts = drawn < 0, jnp.arange(batch_size), whole
        if size < batch_size:  # the first of those that wait, and each of them at its place among these
            first, place = jnp.argsort(~waits)[:size], jnp.cumsum(waits) - 1
            parts = [each[first] for each in whole]
            waits, place = waits & (place < size), jnp.minimum(place, size - 1)
        level, proposed = _propose(bits, tables.cumulative, words, parts, most)
        found = look_up(parts[-1], proposed)
        is_later = jnp.any((found >= 0) & (jnp.arange(1, len(words))[None] > level[:, None]), axis=1)
        is_refused = jnp.isin(take(tables.symbol_of, proposed), jnp.array(refused))
        proposed = jnp.where(is_later | is_refused | (parts[0][:, -1] == 0.0), -1, proposed)
        return jnp.where(waits, proposed[place], drawn), jnp.where(waits[:, None], found[place], ranks)

    def compiled(bits, drawn, ranks):
        shapes = [jax.ShapeDtypeStruct(each.shape, jnp.int32) for each in (drawn, ranks)]
        entries = [array for table in orders for array in (table.first, table.word)]
        arrays = bits, *whole, drawn, ranks, *tables, *entries
        return tuple(library.call("draw_round", shapes, *arrays, never=np.array(refused, np.int64)))

    def go_on(state):
        round_, *so_far = state
        arrays = jax.random.bits(jax.random.fold_in(key, round_), (size, 2), jnp.uint32), *so_far
        if not library.suits("float32", *arrays, *whole, types=(jnp.int32, jnp.uint32, jnp.float32)):
            return round_ + 1, *by_xla(*arrays)
        return round_ + 1, *lax.platform_dependent(*arrays, cpu=compiled, default=by_xla)

    def is_short(state):
        return (state[0] < ROUNDS) & jnp.any(state[1] < 0)

    nothing = jnp.full(batch_size, -1, jnp.int32), jnp.zeros((batch_size, len(words) - 1), jnp.int32)
    return lax.while_loop(is_short, go_on, (0, *nothing))[1:]


def _propose(
    bits: UInt[Array, "rows 2"],
    cumulative: UInt[Array, "entry"],
    words: Sequence[Int[Array, "_"]],
    parts: Sequence[Array],
    most: int,
) -> tuple[Int[Array, "rows"], Int[Array, "rows"]]:
    """An order, from 0, and a word of its entries for each row."""
    bounds, *others, _ = parts
    share = (bits[:, :1] >> 9).astype(jnp.float32) * 2.0**-23
    level = jnp.sum(bounds <= share * bounds[:, -1:], axis=1, dtype=jnp.int32)
    level = jnp.minimum(level, len(words) - 1)  # where all bounds are zero
    mass, before, low, high = (jnp.take_along_axis(each, level[:, None], axis=1)[:, 0] for each in others)
    find = partial(bisect, cumulative, most=most)
    entry = each_row(find, before, _scaled(bits[:, 1], mass) + 1, low + 1, high + 1) - 1
    word, begin = jnp.zeros_like(level), 0
    for n, each in enumerate(words):
        word = jnp.where(level == n, take(each, jnp.clip(entry - begin, 0, len(each) - 1)), word)
        begin += len(each)
    return level, word


def _scaled(bits: UInt[Array, "rows"], mass: UInt[Array, "rows"]) -> UInt[Array, "rows"]:
    """floor(bits mass / 2^32) of numbers below 2^32, by halves of 16 bits."""
    (above, below), (more, less) = ((each >> 16, each & 0xFFFF) for each in (bits, mass))
    first = above * less + (below * less >> 16)
    second = below * more + (first & 0xFFFF)
    return above * more + (first >> 16) + (second >> 16)

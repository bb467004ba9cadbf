"""Count models under the contract: the carry is the ranks of the n-grams that the history ends with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import Model, StepModel, check_key, unroll_by_carries
from lmseq.data.texts import Texts
from lmseq.models.ngram_draws import (
    ROUNDS,
    DrawTables,
    Levels,
    bisect,
    draw_tables,
    draw_words,
    each_row,
    take,
)
from lmseq.ngram.backoff import OUTSIDE, UNSEEN, BackoffTables, Fallback, OrderTable, find_ranks, score_words
from lmseq.ngram.corpus import number_texts
from lmseq.ngram.counts import BOS_ID, EOS_ID, UNK_ID, count_ngrams, longest_sentence
from lmseq.ngram.smoothing import modified_kneser_ney
from lmseq.sampling import Decoding, choose
from lmseq.types import Carry, Element, LogProbs, Params, PRNGKey, TokenBatch, TokenLogProbs

Ranks = Int[Array, "*dims"]  # of an n-gram in its table, or UNSEEN, or OUTSIDE


class DeviceTable(NamedTuple):
    """`backoff.OrderTable` on the device, int32 and float32."""

    first: Int[Array, "below"]
    word: Int[Array, "entry"]
    log_prob: Float[Array, "entry"]
    log_backoff: Float[Array, "entry"]


class NgramParams(NamedTuple):
    """The tables, and the word of the tables that stands for each of V symbols, int32 (V,)."""

    tables: tuple[DeviceTable, ...]
    word_of: Int[Array, "vocab"]


@dataclass(frozen=True)
class NgramModel(StepModel):
    """A back-off model over a vocabulary of its own, as a model of V symbols.

    The symbol that stands for `</s>` ends a sentence: what follows it is predicted from `<s>`. Words of the
    tables that no symbol stands for are either `also_unknown`, spelled like the symbol 0, which has their
    probability beside its own, or `impossible`: then every distribution is the tables' given that none of
    them comes.

    most_children: the longest list of entries with one prefix, order by order. carry: ranks of the n-grams of
    length 1 ... N - 1 that the history ends with, int32 (B, N - 1).
    """

    vocab_size: int
    most_children: tuple[int, ...]
    log_unseen: float = 0.0
    fallback: Fallback = "shorter"
    also_unknown: tuple[int, ...] = ()
    impossible: tuple[int, ...] = ()

    def init(self, key: PRNGKey) -> NgramParams:
        """Tables that know nothing: every word but `<s>` is as likely as any other."""
        vocab_size = self.vocab_size + len(self.also_unknown) + len(self.impossible) + 1
        log_prob = jnp.full(vocab_size, -math.log(vocab_size - 1)).at[BOS_ID].set(-jnp.inf)
        words = jnp.arange(vocab_size, dtype=jnp.int32)
        order = DeviceTable(jnp.array([0, vocab_size]), words, log_prob, jnp.zeros(vocab_size))
        nothing = DeviceTable(jnp.zeros(2, jnp.int32), jnp.zeros(1, jnp.int32), jnp.zeros(1), jnp.zeros(1))
        empty = nothing._replace(first=jnp.zeros(vocab_size + 1, jnp.int32))
        higher = (empty, *[nothing] * len(self.most_children))[: len(self.most_children) - 1]
        others = {BOS_ID, *self.also_unknown, *self.impossible}
        symbols = [word for word in range(vocab_size) if word not in others]
        return NgramParams((order, *higher), jnp.array(symbols, jnp.int32))

    def init_carry(self, params: NgramParams, batch_size: int) -> Carry:
        """The beginning of a sentence."""
        start = [BOS_ID, *[OUTSIDE] * len(self.most_children)][: len(self.most_children) - 1]
        return jnp.tile(jnp.array(start, jnp.int32), (batch_size, 1))

    def update(self, params: NgramParams, carry: Carry, x: Int[Array, "batch"]) -> Carry:
        """Each n-gram that the history ends with, one word longer."""
        return self.carries(params, carry, x[:, None])[:, 0]

    def carries(self, params: NgramParams, carry: Carry, xs: TokenBatch) -> Carry:
        """The ranks after each of xs (B, T), one order at a time: (B, T, N - 1)."""
        return self._read(params, carry, params.word_of[xs])[0]

    def _read(
        self, params: NgramParams, carry: Carry, words: Int[Array, "batch time"]
    ) -> tuple[Int[Array, "batch time context"], list[Int[Array, "batch time"]]]:
        """The carry after each word, and the rank of each in orders 2 ... N - 1 after what is before it.

        The two differ where a sentence ends, and the carry begins anew.
        """
        found = []
        ranks = [_begun(words, words, BOS_ID)]
        for n in range(2, len(self.most_children)):
            before = jnp.concatenate([carry[:, None, n - 2], ranks[-1][:, :-1]], axis=1)
            found.append(self._child(params, n, before, words))
            ranks.append(_begun(words, found[-1], OUTSIDE))
        return jnp.stack(ranks, axis=-1)[..., : len(self.most_children) - 1], found

    def readout(self, params: NgramParams, carry: Carry) -> LogProbs:
        """Log-probabilities of all V symbols."""
        log_probs = self._distribution(params, carry)
        chosen = log_probs[:, params.word_of]
        for word in self.also_unknown:
            chosen = chosen.at[:, 0].set(jnp.logaddexp(chosen[:, 0], log_probs[:, word]))
        impossible = self._log_possible([log_probs[:, word] for word in self.impossible])
        return chosen - jnp.broadcast_to(impossible, carry.shape[:1])[:, None]

    def unroll(
        self,
        params: NgramParams,
        carry: Carry,
        xs: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Float[Array, "batch time vocab"]]:
        """The distribution after each of xs (B, T); a key does nothing."""
        check_key(training, key)
        return unroll_by_carries(self, params, carry, xs)

    def token_log_probs(
        self,
        params: NgramParams,
        carry: Carry,
        xs: TokenBatch,
        targets: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """Single entries of the tables, (B, T): no distribution is made."""
        check_key(training, key)
        carries, found = self._read(params, carry, params.word_of[xs])
        words = params.word_of[targets]

        def read_next() -> TokenLogProbs:
            """Each target but the last is the next input, whose ranks are known already."""
            known = []
            for n, ranks in enumerate(found, start=2):
                last = self._child(params, n, carries[:, -1:, n - 2], words[:, -1:])
                known.append(jnp.concatenate([ranks[:, 1:], last], axis=1))
            return self._entry(params, carries, words, known)

        log_probs = lax.cond(
            jnp.all(targets[:, :-1] == xs[:, 1:]), read_next, lambda: self._entry(params, carries, words)
        )
        return carries[:, -1], self._of_symbols(targets, log_probs, partial(self._entry, params, carries))

    def prepare_draws(self, params: NgramParams) -> DrawTables | None:
        """What `draw` looks up, made on the host; None where words fall back to unigrams at once."""
        if self.fallback != "shorter":
            return None
        return draw_tables(params.tables, params.word_of, self.also_unknown)

    def draw(
        self,
        params: NgramParams,
        tables: DrawTables,
        carry: Carry,
        key: PRNGKey,
        never: tuple[int, ...] = (),
    ) -> tuple[Carry, Element, Float[Array, "batch"]]:
        """The carry after a symbol drawn for each row, the symbols, int32 (B,), and their ln p, float32 (B,).

        By `draw_words`; where that gives none, as where only `never` can come, from whole distributions.
        """
        find, most = partial(self._children, params), max(self.most_children)
        levels = self._levels(params, carry)
        words, ranks = draw_words(key, tables, params.tables, levels, carry, find, most, never)
        symbols = jnp.where(words < 0, 0, take(tables.symbol_of, words))

        def among_all() -> Element:
            # Rounds fold in numbers below ROUNDS.
            keys = jax.random.split(jax.random.fold_in(key, ROUNDS))
            uniforms = [jax.random.uniform(each, (carry.shape[0], 1)) for each in keys]
            others = choose(uniforms, self.readout(params, carry), Decoding(), never)
            return jnp.where(words < 0, others, symbols)

        symbols = lax.cond(jnp.any(words < 0), among_all, lambda: symbols)
        spelled = take(params.word_of, symbols)  # another word than was drawn, where that was also unknown
        ranks = lax.cond(jnp.all(spelled == words), lambda: ranks, lambda: find(carry, spelled))

        after = [_begun(spelled, spelled, BOS_ID), *(_begun(spelled, each, OUTSIDE) for each in ranks.T)]

        def entry(words: Ranks, ranks: Int[Array, "rows context"] | None = None) -> Float[Array, "rows"]:
            known = find(carry, words) if ranks is None else ranks
            return each_row(partial(self._score_one, params), words, *carry.T, *known.T)

        log_probs = self._of_symbols(symbols, entry(spelled, ranks), entry)
        return jnp.stack(after, axis=1)[:, : carry.shape[1]], symbols, log_probs

    def _score_one(self, params: NgramParams, word: Ranks, *ranks: Ranks) -> Float[Array, ""]:
        """`_entry` of one row, whose contexts come first, then the word's own ranks."""
        length = len(ranks) // 2
        return self._entry(params, jnp.stack([word, *ranks])[1 : length + 1], word, ranks[length:])

    def _levels(self, params: NgramParams, carry: Int[Array, "batch context"]) -> Levels:
        """The entries behind each context of each row, and the weights of the contexts above them."""
        lows, highs, log_weights, begin = [], [], [jnp.zeros(len(carry))], 0
        for table, context in zip(params.tables, [jnp.zeros(len(carry), jnp.int32), *carry.T], strict=True):
            low, high = each_row(lambda c, t=table: (t.first[c], t.first[c + 1]), jnp.maximum(context, 0))
            lows.append(begin + low)
            highs.append(begin + jnp.where(context < 0, low, high))
            begin += table.word.shape[0]
        for table, context in zip(params.tables[-2::-1], carry.T[::-1], strict=True):
            weight = each_row(partial(self._weight, table), context)
            log_weights.append(log_weights[-1] + jnp.where(context == OUTSIDE, 0.0, weight))
        return Levels(*(jnp.stack(each, axis=1) for each in (lows, highs, log_weights[::-1])))

    def _children(
        self, params: NgramParams, carry: Int[Array, "rows context"], words: Int[Array, "rows"]
    ) -> Int[Array, "rows context"]:
        """Ranks of words after the contexts of a few rows, in orders 2 ... N."""
        orders = enumerate(carry.T, start=2)
        ranks = [each_row(partial(self._child, params, n), context, words) for n, context in orders]
        return jnp.stack([words, *ranks], axis=1)[:, 1:]

    def _of_symbols(
        self,
        symbols: Int[Array, "*dims"],
        log_probs: Float[Array, "*dims"],
        entry: Callable[[Int[Array, "*dims"]], Float[Array, "*dims"]],
    ) -> Float[Array, "*dims"]:
        """ln p of symbols from that of the words that they are spelled as; entry gives that of others."""

        def with_unknown() -> Float[Array, "*dims"]:
            total = log_probs
            for word in self.also_unknown:
                other = entry(jnp.full_like(symbols, word))
                total = jnp.where(symbols == 0, jnp.logaddexp(total, other), total)
            return total

        if self.also_unknown:
            log_probs = lax.cond(jnp.any(symbols == 0), with_unknown, lambda: log_probs)
        return log_probs - self._log_possible(
            [entry(jnp.full_like(symbols, word)) for word in self.impossible]
        )

    def _log_possible(self, log_probs: list[Float[Array, "*dims"]]) -> Float[Array, "*dims"]:
        """ln of what the impossible words leave."""
        left = 1.0 - sum((jnp.exp(each) for each in log_probs), jnp.zeros(()))
        return jnp.where(left > 0.0, jnp.log(left), 0.0)  # where nothing is left, nothing can come

    def _child(self, params: NgramParams, n: int, prefix: Ranks, word: Ranks) -> Ranks:
        """Rank in order n of a prefix with a word behind it, by bisection among the prefix's entries."""
        table = params.tables[n - 1]
        low, end = table.first[jnp.maximum(prefix, 0)], table.first[jnp.maximum(prefix, 0) + 1]
        end, last = jnp.where(prefix < 0, low, end), table.word.shape[0] - 1
        low = bisect(table.word, 0, word, low, end, self.most_children[n - 1])
        found = (low < end) & (table.word[jnp.minimum(low, last)] == word)
        return jnp.where(found, low, jnp.where(prefix == OUTSIDE, OUTSIDE, UNSEEN))

    def _weight(self, table: DeviceTable, context: Ranks) -> Float[Array, "*dims"]:
        """ln of the back-off weight of contexts; of one that is not in the table, as the model has it."""
        return jnp.where(context >= 0, table.log_backoff[jnp.maximum(context, 0)], self.log_unseen)

    def _backed_off(self, total, unigram, weight, context: Ranks):
        """What a word has that was not seen after a context, from what it has after shorter ones."""
        lower = total if self.fallback == "shorter" else unigram
        outside = (context == OUTSIDE).reshape(context.shape + (1,) * (total.ndim - context.ndim))
        return jnp.where(outside, total, lower + weight)

    def _entry(
        self,
        params: NgramParams,
        carries: Int[Array, "*dims context"],
        words: Ranks,
        known: Sequence[Ranks] = (),
    ) -> Float[Array, "*dims"]:
        """ln p of single words (...) of the tables after carries (..., N - 1).

        known: their ranks in orders 2, 3, ..., as far as they need not be looked up.
        """
        unigram = total = params.tables[0].log_prob[words]
        for n in range(2, len(self.most_children) + 1):
            table, context = params.tables[n - 1], carries[..., n - 2]
            rank = known[n - 2] if n - 2 < len(known) else self._child(params, n, context, words)
            weight = self._weight(params.tables[n - 2], context)
            backed_off = self._backed_off(total, unigram, weight, context)
            total = jnp.where(rank >= 0, table.log_prob[jnp.maximum(rank, 0)], backed_off)
        return total

    def _distribution(
        self, params: NgramParams, carry: Int[Array, "batch context"]
    ) -> Float[Array, "batch words"]:
        """ln p of every word of the tables after each row of a carry."""
        rows = jnp.arange(carry.shape[0])[:, None]
        num_words = params.tables[0].word.shape[0]
        # One column more, for what is not an entry.
        unigram = jnp.append(params.tables[0].log_prob, -jnp.inf)
        total = unigram = jnp.broadcast_to(unigram, (carry.shape[0], num_words + 1))
        for n in range(2, len(self.most_children) + 1):
            table, context = params.tables[n - 1], carry[:, n - 2]
            weight = self._weight(params.tables[n - 2], context)[:, None]
            total = self._backed_off(total, unigram, weight, context)
            first = table.first[jnp.maximum(context, 0)]
            places = first[:, None] + jnp.arange(self.most_children[n - 1])[None]
            inside = (places < table.first[jnp.maximum(context, 0) + 1][:, None]) & (context >= 0)[:, None]
            places = jnp.minimum(places, table.word.shape[0] - 1)
            columns = jnp.where(inside, table.word[places], num_words)
            total = total.at[rows, columns].set(table.log_prob[places])
        return total[:, :num_words]


def _begun(words: Ranks, ranks: Ranks, start: int) -> Ranks:
    """Ranks, or what stands for them at a sentence's start where the word was its end."""
    return jnp.where(words == EOS_ID, start, ranks)


def put_tables(
    tables: BackoffTables, word_of: Int[np.ndarray, "vocab"], *, has_unknown: bool
) -> tuple[NgramModel, NgramParams]:
    """Tables as a model of V symbols: symbol i stands for their word `word_of[i]`, distinct, int32 (V,).

    has_unknown: symbol 0 is what is written for an unknown word, and stands for the tables' `<unk>` too.
    Words that no symbol stands for, such as `</s>` where no symbol ends a line, never come.
    """
    symbols = np.asarray(word_of, np.int32)
    model = model_of_tables(tables, symbols, has_unknown=has_unknown)
    return model, NgramParams(tuple(map(_on_device, tables.orders)), jnp.asarray(symbols))


def model_of_tables(
    tables: BackoffTables, symbols: Int[np.ndarray, "vocab"], *, has_unknown: bool
) -> NgramModel:
    """The model of `put_tables`, without its parameters."""
    left = sorted(set(range(tables.vocab_size)) - set(symbols.tolist()) - {BOS_ID})
    also = (UNK_ID,) if has_unknown and UNK_ID in left else ()
    return NgramModel(
        vocab_size=len(symbols),
        most_children=tuple(int(np.diff(table.first).max(initial=1)) for table in tables.orders),
        log_unseen=tables.log_unseen,
        fallback=tables.fallback,
        also_unknown=also,
        impossible=tuple(word for word in left if word not in also) if tables.is_proper() else (),
    )


def _on_device(table: OrderTable) -> DeviceTable:
    def put(array: np.ndarray, dtype: type) -> Array:
        # At least one entry, so that there is something to look at where nothing is found.
        return jnp.asarray(array if len(array) else np.zeros(1), dtype)

    kinds = (jnp.int32, jnp.int32, jnp.float32, jnp.float32)
    return DeviceTable(*map(put, table, kinds))


# Fitting


class Counts(NamedTuple):
    """A count model under the contract, its order, its tables, and their bytes in memory."""

    model: Model
    params: Params
    order: int
    num_bytes: int
    tables: BackoffTables


def fit_counts(texts: Texts, most_order: int, least_order: int = 2, *, most_tokens: int = 0) -> Counts:
    """Modified Kneser-Ney on the training text, of the first order that one more does not make better.

    Better is judged by the validation text. Orders from `least_order` to `most_order` are tried, as far as
    there are sentences so long; where an order's discounts are undefined it has 0.5, 1 and 1.5. most_tokens:
    count, and judge by, no more than the latest so many of each text; 0 for all. Raises ValueError for an
    empty training text.
    """
    if most_tokens:
        texts = texts._replace(ids={split: ids[-most_tokens:] for split, ids in texts.ids.items()})
    word_of, num_words, streams = number_texts(texts)
    stream = streams["train"]
    counts = count_ngrams(stream, num_words, min(most_order, longest_sentence(stream)))
    best: tuple[float, BackoffTables] | None = None
    ranks: list[np.ndarray] = []  # of the validation text's n-grams: an order more leaves the others'
    for n in range(min(least_order, len(counts)), len(counts) + 1):
        tables = modified_kneser_ney(counts[:n], discount_fallback=True).tables
        ranks = find_ranks(tables, streams["valid"], ranks)
        nll = -float(score_words(tables, streams["valid"], known=ranks).sum())
        if best and nll >= best[0]:
            break
        best = nll, tables
    tables = best[1]
    model, params = put_tables(tables, word_of, has_unknown=bool(texts.vocab.unknown_ids))
    return Counts(model, params, len(tables.orders), tables.num_bytes, tables)

"""From counts to probabilities: one function an estimator, all made by one interpolation.

In each docstring n(g) is how often an n-gram occurs, and h' is the context h without its first word. What
the functions pass to `interpolate` is what an estimator takes from the words that were seen (d), or adds
for those that were not (e, t); stupid back-off takes maximum likelihood and weights of its own.
`estimate` calls the one that a config names.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int, Integer

from lmseq.config.counts import CountConfig, Smoothing, thresholds
from lmseq.config.counts import epsilons as given_epsilons
from lmseq.files import release
from lmseq.ngram.backoff import OUTSIDE, BackoffTables, Fallback, find_ranks
from lmseq.ngram.counts import BOS_ID, OrderCounts, adjusted_counts, predicted, ranges
from lmseq.ngram.interpolation import Rule, interpolate

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
STUPID_WEIGHT = 0.4


class Smoothed(NamedTuple):
    """Back-off tables, and the discounts D_1, D_2, D_3+ of each order, (N, 3); zeros where there are none."""

    tables: BackoffTables
    discounts: Float[np.ndarray, "order 3"]


def _raw(counts: Sequence[OrderCounts]) -> Iterator[Int[np.ndarray, "entry"]]:
    """Occurrences, order by order, of what can be predicted."""
    return (predicted(table.count, n) for n, table in enumerate(counts, start=1))


def counts_of_counts(
    taken: Iterable[Int[np.ndarray, "_"]],
) -> Int[np.ndarray, "order 4"]:
    """t_{n,k}, the number of n-grams of order n with count k = 1 ... 4, int64 (N, 4)."""
    return np.array(
        [
            np.sum([np.bincount(np.minimum(a[part], 5), minlength=6)[1:5] for part in ranges(len(a))], axis=0)
            for a in taken
        ]
    )


# What is read from the text


def unigram_log_probs(tokens: Integer[np.ndarray, "time"], vocab_size: int) -> Float[np.ndarray, "vocab"]:
    """log P(x) = log((n(x) + 1) / (N + V)), add-one so that no symbol is impossible, float64 (V,)."""
    counts = np.ones(vocab_size)
    for start in range(0, len(tokens), 1 << 22):  # a long text is counted as int64: not all of it at once
        counts += np.bincount(tokens[start : start + (1 << 22)], minlength=vocab_size)
        release([tokens])
    return np.log(counts / counts.sum())


def maximum_likelihood(counts: Sequence[OrderCounts]) -> Smoothed:
    """p(w | h) = n(hw) / n(h): nothing is left for what was not seen after a context that was."""
    return _smoothed(interpolate(counts, _raw(counts), [Rule()] * len(counts)))


def epsilon(
    counts: Sequence[OrderCounts], epsilons: Sequence[float], *, fallback: Fallback = "shorter"
) -> Smoothed:
    """p(w | h) = (n(hw) + e_n p(w | h')) / (n(h) + e_n), n(h) being how often h was followed by a word.

    Unigrams: (n(w) + e_1 / m) / (N + e_1), m = V - 1 words that can be predicted. With fallback `unigram` the
    third and higher orders take p(w) for p(w | h'), also where h was never seen. epsilons: e_1 ... e_N above
    0, the last one standing for those that are missing. Raises ValueError for others.
    """
    given = [*epsilons, *[epsilons[-1] if epsilons else 0.0] * (len(counts) - len(epsilons))]
    if len(given) > len(counts) or not all(0.0 < e < math.inf for e in given):
        raise ValueError(
            f"expected up to {len(counts)} epsilons above 0, got {', '.join(map(str, epsilons))}"
        )
    rules = [Rule(added=e) for e in given]
    return _smoothed(interpolate(counts, _raw(counts), rules, fallback=fallback))


def fit_epsilons(
    counts: Sequence[OrderCounts], stream: Int[np.ndarray, "time"], *, fallback: Fallback = "shorter"
) -> list[float]:
    """e_1 ... e_N that make a held-out stream of marked sentences likeliest (a local maximum in ln e).

    Each p(w | h) of the stream is a function of the epsilons and of counts that are looked up once.
    """
    tables = maximum_likelihood(counts).tables
    ranks = find_ranks(tables, stream)
    kept = np.flatnonzero(stream != BOS_ID)
    pairs = []  # n(hw), n(h) at each position, order by order; NaN where the sentence is too short for h
    for n, (table, a) in enumerate(zip(counts, _raw(counts), strict=True), start=1):
        rank, context = ranks[n - 1][kept], ranks[n - 2][kept - 1] if n > 1 else np.zeros(len(kept), int)
        total = np.bincount(table.prefix, a, len(counts[n - 2].word) if n > 1 else 1)
        of_context = np.where(context >= 0, total[np.maximum(context, 0)], 0.0)
        pairs.append(
            (
                np.where(rank >= 0, a[np.maximum(rank, 0)], 0.0),
                np.where(context == OUTSIDE, np.nan, of_context),
            )
        )

    def loss(logs: Float[np.ndarray, "order"]) -> tuple[float, Float[np.ndarray, "order"]]:
        """Mean of -ln p, and its gradient with respect to ln e."""
        unigram = prob = np.full(len(kept), 1.0 / (len(counts[0].word) - 1))
        slopes = unigram_slopes = np.zeros((len(counts), len(kept)))
        for n, (e, (number, total)) in enumerate(zip(np.exp(logs), pairs, strict=True)):
            lower, lower_slopes = (prob, slopes) if fallback == "shorter" else (unigram, unigram_slopes)
            weight = e / (total + e)
            longer = (number + e * lower) / (total + e)
            steeper = weight * lower_slopes
            steeper[n] += weight * (lower - longer)
            outside = np.isnan(total)
            prob, slopes = np.where(outside, prob, longer), np.where(outside, slopes, steeper)
            if n == 0:
                unigram, unigram_slopes = prob, slopes
        return -np.log(prob).mean(), -(slopes / prob).mean(axis=1)

    from scipy.optimize import minimize  # slow to import, and training needs no counts before its end

    bounds = [(-12.0, 12.0)] * len(counts)
    return np.exp(minimize(loss, np.zeros(len(counts)), jac=True, bounds=bounds).x).tolist()


def witten_bell(counts: Sequence[OrderCounts]) -> Smoothed:
    """p(w | h) = (n(hw) + #(h) p(w | h')) / (n(h) + #(h)), of #(h) distinct words (Witten and Bell 1991)."""
    return _smoothed(interpolate(counts, _raw(counts), [Rule(added_per_word=1.0)] * len(counts)))


def absolute_discounting(counts: Sequence[OrderCounts], *, discount_fallback: bool = False) -> Smoothed:
    """Interpolated, one discount D_n = t_1 / (t_1 + 2 t_2) an order, of occurrences (Ney et al. 1994).

    Raises ValueError where it is undefined, unless `discount_fallback` gives that order 0.5.
    """
    discounts = _single_discounts(counts_of_counts(_raw(counts)), discount_fallback)
    return _smoothed(interpolate(counts, _raw(counts), [Rule(d) for d in discounts]), discounts)


def kneser_ney(counts: Sequence[OrderCounts], *, discount_fallback: bool = False) -> Smoothed:
    """Interpolated, one discount D_n = t_1 / (t_1 + 2 t_2) an order, of adjusted counts.

    Kneser and Ney (1995), in the interpolated form of Chen and Goodman (1998).

    Raises ValueError where it is undefined, unless `discount_fallback` gives that order 0.5.
    """
    discounts = _single_discounts(counts_of_counts(adjusted_counts(counts)), discount_fallback)
    return _smoothed(interpolate(counts, adjusted_counts(counts), [Rule(d) for d in discounts]), discounts)


def modified_kneser_ney(
    counts: Sequence[OrderCounts],
    *,
    interpolate_unigrams: bool = True,
    discount_fallback: bool = False,
    kenlm_compat: bool = False,
    prune: Sequence[int] = (),
    folder: Path | None = None,
) -> Smoothed:
    """Three discounts an order, of adjusted counts (Chen and Goodman 1998; Heafield et al. 2013).

    Without `interpolate_unigrams` the share of unigrams that discounts free goes to `<unk>` alone.
    kenlm_compat tallies, in the statistics of each order below the highest, the last n-gram in suffix order
    with its occurrences instead of its left neighbours, as the field's reference tool does. prune and folder
    as in `interpolate`. Raises ValueError where an order's discounts are undefined, unless
    `discount_fallback` gives that order 0.5, 1 and 1.5.
    """
    held = None if folder else list(adjusted_counts(counts))

    def taken() -> Iterable[Int[np.ndarray, "_"]]:
        """Adjusted counts, with a folder made anew each time, as they are too large to be held."""
        return adjusted_counts(counts) if held is None else held

    statistics = counts_of_counts(taken())
    if kenlm_compat:
        _tally_last(statistics, counts, taken())
    discounts = []
    for n, t in enumerate(statistics, start=1):
        found = discounts_of(t)
        if found is None and not discount_fallback:
            raise _undefined(n, t.tolist(), "0.5, 1 and 1.5")
        discounts.append(found or FALLBACK_DISCOUNTS)
    tables = interpolate(
        counts,
        taken(),
        [Rule(d) for d in discounts],
        interpolate_unigrams=interpolate_unigrams,
        prune=prune,
        folder=folder,
    )
    return _smoothed(tables, discounts)


def stupid_backoff(counts: Sequence[OrderCounts], weight: float = STUPID_WEIGHT) -> Smoothed:
    """S(w | h) = n(hw) / n(h) if hw was seen, else 0.4 S(w | h') (Brants et al. 2007).

    Scores, not probabilities: over all words they sum to more than 1. Unigrams are n(w) / N, so a word
    outside the vocabulary has score 0.
    """
    if not 0.0 < weight < 1.0:
        raise ValueError(f"expected a back-off weight between 0 and 1, got {weight}")
    tables = maximum_likelihood(counts).tables
    log_weight = math.log(weight)
    orders = [
        table._replace(log_backoff=np.full(len(table.log_backoff), log_weight)) for table in tables.orders
    ]
    return _smoothed(replace(tables, orders=tuple(orders), log_unseen=log_weight))


def estimate(
    config: CountConfig,
    counts: Sequence[OrderCounts],
    *,
    epsilons: Sequence[float] = (),
    folder: Path | None = None,
) -> Smoothed:
    """The model that the config names, of as many orders as there are counts.

    counts: of orders 1 ... N, as `count_ngrams` makes them; N need not be the config's order. epsilons: those
    of an epsilon smoothing whose config gives none (see `fit_epsilons`); one for each order, more are left
    out. folder: where the tables of modified Kneser-Ney are made as files; None: in memory. Raises ValueError
    for a smoothing that does not exist, for an epsilon smoothing without epsilons, and for undefined
    discounts unless `config.discount_fallback` is set.
    """
    match config.smoothing:
        case "maximum_likelihood":
            return maximum_likelihood(counts)
        case "epsilon" | "epsilon_unigram":
            chosen = given_epsilons(config) or epsilons
            if not chosen:
                raise ValueError(
                    f"expected epsilons for smoothing {config.smoothing}, got none: give --epsilons, or "
                    "pass what fit_epsilons finds"
                )
            fallback = "shorter" if config.smoothing == "epsilon" else "unigram"
            return epsilon(counts, chosen[: len(counts)], fallback=fallback)
        case "absolute_discounting":
            return absolute_discounting(counts, discount_fallback=config.discount_fallback)
        case "witten_bell":
            return witten_bell(counts)
        case "kneser_ney":
            return kneser_ney(counts, discount_fallback=config.discount_fallback)
        case "modified_kneser_ney":
            return modified_kneser_ney(
                counts,
                interpolate_unigrams=config.interpolate_unigrams,
                discount_fallback=config.discount_fallback,
                kenlm_compat=config.kenlm_compat,
                prune=thresholds(config)[: len(counts)],
                folder=folder,
            )
        case "stupid_backoff":
            return stupid_backoff(counts)
        case _:
            kinds = ", ".join(get_args(Smoothing))
            raise ValueError(f"expected one of {kinds} as smoothing, got {config.smoothing!r}")


def _smoothed(tables: BackoffTables, discounts: Sequence[Sequence[float]] | None = None) -> Smoothed:
    return Smoothed(tables, np.zeros((tables.order, 3)) if discounts is None else np.array(discounts))


# Discounts


def discounts_of(statistics: Int[np.ndarray, "4"]) -> tuple[float, float, float] | None:
    """D_k = k - (k + 1) Y t_{k+1} / t_k, Y = t_1 / (t_1 + 2 t_2); None where undefined or outside [0, k].

    statistics: t_1 ... t_4, the number of n-grams with adjusted count 1 ... 4.
    """
    t = [float(number) for number in statistics]
    if 0.0 in t[:3]:
        return None
    y = t[0] / (t[0] + 2.0 * t[1])
    found = tuple(k - (k + 1) * y * t[k] / t[k - 1] for k in (1, 2, 3))
    return found if all(0.0 <= d <= k for k, d in enumerate(found, start=1)) else None


def _single_discounts(
    statistics: Int[np.ndarray, "order 4"], discount_fallback: bool
) -> list[tuple[float, float, float]]:
    discounts = []
    for n, t in enumerate(statistics.tolist(), start=1):
        defined = t[0] > 0 and t[1] > 0  # else the discount would be 0 or all of a count of 1
        if not defined and not discount_fallback:
            raise _undefined(n, t, "0.5")
        discount = t[0] / (t[0] + 2.0 * t[1]) if defined else 0.5
        discounts.append((discount,) * 3)
    return discounts


def _undefined(n: int, statistics: Sequence[int], instead: str) -> ValueError:
    return ValueError(
        f"the discounts of order {n} are undefined: {', '.join(map(str, statistics))} n-grams have counts "
        f"1, 2, 3, 4; give --discount_fallback, which takes {instead} for that order"
    )


def _tally_last(
    statistics: Int[np.ndarray, "order 4"],
    counts: Sequence[OrderCounts],
    taken: Iterable[Int[np.ndarray, "_"]],
) -> None:
    """Move the last n-gram in suffix order of each lower order from its adjusted count to its occurrences."""
    for n, (table, a) in enumerate(zip(counts[:-1], taken, strict=False)):
        last = _last_in_suffix_order(counts, n)
        for count, change in ((int(a[last]), -1), (int(table.count[last]), 1)):
            if 1 <= count <= 4:
                statistics[n, count - 1] += change


def _last_in_suffix_order(counts: Sequence[OrderCounts], n: int) -> int:
    """The entry of order n + 1 that is largest by (last word, the word before, ...)."""
    if n == 0:
        return int(np.flatnonzero(counts[0].count)[-1])
    candidates = chosen = np.flatnonzero(counts[n].word == counts[n].word.max())
    for depth in range(n, -1, -1):
        last = counts[depth].word[candidates]
        kept = last == last.max()
        candidates, chosen = candidates[kept], chosen[kept]
        if len(chosen) == 1:
            break
        candidates = counts[depth].prefix[candidates]
    return int(chosen[0])

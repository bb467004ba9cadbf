"""Every estimator by hand, by its definition, and against the reference tool's own figures."""

import math
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.config.counts import CountConfig, Smoothing
from lmseq.data.pieces import pieces
from lmseq.ngram import smoothing
from lmseq.ngram.arpa import read_arpa
from lmseq.ngram.backoff import score_words
from lmseq.ngram.counts import BOS_ID, EOS_ID, UNK_ID, count_ngrams
from lmseq.ngram.smoothing import FALLBACK_DISCOUNTS, discounts_of
from lmseq.ngram.words import look_up, number_text
from tests.ngrams import ByDefinition, V, contexts, dictionaries, looked_up, marked, sentences, word_ids

GOLDEN = Path(__file__).parent / "golden"
A, B = 3, 4
LENIENT = {"discount_fallback": True}


def probabilities(tables, order: int) -> dict[tuple[int, ...], list[float]]:
    """p(w | h) of every word, for seen and unseen contexts."""
    entries = dictionaries(tables)
    return {context: [looked_up(entries, word, context) for word in range(V)] for context in contexts(order)}


# By hand: the one sentence `a b a`. Unigrams a 2, b 1, </s> 1 of 4; four bigrams, once each; V = 5.


@pytest.mark.parametrize(
    ("estimator", "b", "a_then_b", "a_then_a"),
    [
        (smoothing.maximum_likelihood, 1 / 4, 1 / 2, 0.0),
        (lambda c: smoothing.epsilon(c, [1.0]), 1.25 / 5, (1 + 0.25) / 3, 0.45 / 3),
        (smoothing.witten_bell, (1 + 3 / 4) / 7, (1 + 2 * 0.25) / 4, 2 * (2 + 3 / 4) / 7 / 4),
        # t = 2, 1 at order 1: D = 1/2. At order 2 it is undefined and falls back to 1/2.
        (
            partial(smoothing.absolute_discounting, **LENIENT),
            0.125 + 0.375 / 4,
            0.25 + 0.5 * 0.21875,
            0.5 * 0.46875,
        ),
        (partial(smoothing.kneser_ney, **LENIENT), 0.125 + 0.375 / 4, 0.25 + 0.5 * 0.21875, 0.5 * 0.46875),
        # Discounts 0.5, 1, 1.5 at both orders: unigrams leave (1 + 0.5 + 0.5) / 4 to be shared by four.
        (partial(smoothing.modified_kneser_ney, **LENIENT), 0.125 + 0.5 / 4, 0.25 + 0.5 * 0.25, 0.5 * 0.375),
        (smoothing.stupid_backoff, 1 / 4, 1 / 2, 0.4 * 2 / 4),
    ],
)
def test_by_hand(estimator, b, a_then_b, a_then_a):
    counts = count_ngrams(marked([[A, B, A]]), V - 1, 2)
    entries = dictionaries(estimator(counts).tables)
    assert looked_up(entries, B, ()) == pytest.approx(b)
    assert looked_up(entries, B, (A,)) == pytest.approx(a_then_b)
    assert looked_up(entries, A, (A,)) == pytest.approx(a_then_a)


# By definition


@settings(max_examples=25)
@given(sentences, st.integers(1, 4), st.booleans())
def test_kneser_ney_by_its_definition(texts, order, interpolate):
    order = min(order, max(len(text) for text in texts) + 2)
    reference = ByDefinition(texts, order)
    made = smoothing.modified_kneser_ney(
        count_ngrams(marked(texts), V, order), interpolate_unigrams=interpolate, discount_fallback=True
    )
    discounts = [
        discounts_of(np.array(reference.numbers(reference.adjusted, n))) or FALLBACK_DISCOUNTS
        for n in range(1, order + 1)
    ]
    np.testing.assert_allclose(made.discounts, discounts)
    spread = None if interpolate else lambda word: float(word == UNK_ID)
    for context, probs in probabilities(made.tables, order).items():
        expected = [
            reference.interpolated(reference.adjusted, discounts, word, context, spread) for word in range(V)
        ]
        np.testing.assert_allclose(probs, expected, rtol=1e-9, atol=1e-12)
        assert sum(probs) == pytest.approx(1.0)


@settings(max_examples=15)
@given(sentences, st.integers(1, 3))
def test_one_discount_by_its_definition(texts, order):
    order = min(order, max(len(text) for text in texts) + 2)
    reference, counts = ByDefinition(texts, order), count_ngrams(marked(texts), V, order)
    for estimator, taken in (
        (smoothing.absolute_discounting, reference.raw),
        (smoothing.kneser_ney, reference.adjusted),
    ):
        discounts = []
        for n in range(1, order + 1):
            one, two = reference.numbers(taken, n)[:2]
            discounts.append((one / (one + 2 * two) if one and two else 0.5,) * 3)
        made = estimator(counts, discount_fallback=True)
        np.testing.assert_allclose(made.discounts, discounts)
        for context, probs in probabilities(made.tables, order).items():
            expected = [reference.interpolated(taken, discounts, word, context) for word in range(V)]
            np.testing.assert_allclose(probs, expected, rtol=1e-9, atol=1e-12)
            assert sum(probs) == pytest.approx(1.0)


@settings(max_examples=15)
@given(sentences, st.integers(1, 3), st.lists(st.floats(0.01, 10.0), min_size=1, max_size=3))
def test_added_amounts_by_their_definition(texts, order, epsilons):
    order = min(order, max(len(text) for text in texts) + 2)
    reference, counts = ByDefinition(texts, order), count_ngrams(marked(texts), V, order)
    given_ = epsilons[:order]
    cases = [
        (smoothing.witten_bell(counts), lambda n, distinct: float(distinct)),
        (smoothing.epsilon(counts, given_), lambda n, _: given_[min(n, len(given_)) - 1]),
    ]
    for made, amounts in cases:
        for context, probs in probabilities(made.tables, order).items():
            expected = [reference.added(amounts, word, context) for word in range(V)]
            np.testing.assert_allclose(probs, expected, rtol=1e-9, atol=1e-12)
            assert sum(probs) == pytest.approx(1.0)


@settings(max_examples=15)
@given(sentences, st.lists(word_ids, max_size=6))
def test_epsilons_straight_to_unigrams_by_definition(texts, text):
    """The context is what the sentence has, up to N - 1 words; what is left is the unigram's."""
    order = min(3, max(len(sentence) for sentence in texts) + 2)
    reference = ByDefinition(texts, order)
    made = smoothing.epsilon(
        count_ngrams(marked(texts), V, order), [0.5, 1.0, 2.0][:order], fallback="unigram"
    )
    whole = (BOS_ID, *text, EOS_ID)
    expected = [
        math.log(reference.added(lambda n, _: (0.5, 1.0, 2.0)[n - 1], w, whole[:i], straight=True))
        for i, w in enumerate(whole)
        if i
    ]
    np.testing.assert_allclose(score_words(made.tables, marked([text]))[1:], expected, rtol=1e-9)


@settings(max_examples=15)
@given(sentences, st.lists(word_ids, max_size=6))
def test_stupid_backoff_by_its_definition(texts, text):
    order = min(3, max(len(sentence) for sentence in texts) + 2)
    reference = ByDefinition(texts, order)
    made = smoothing.stupid_backoff(count_ngrams(marked(texts), V, order))
    assert not made.tables.is_proper()
    whole = (BOS_ID, *text, EOS_ID)

    def score(word: int, context: tuple[int, ...]) -> float:
        context = context[max(0, len(context) - order + 1) :]
        total = sum(reference.raw[gram] for gram in reference.after[context])
        number = reference.raw.get((*context, word), 0)
        return number / total if number else 0.4 * score(word, context[1:]) if context else 0.0

    scores = [score(w, whole[:i]) for i, w in enumerate(whole) if i]
    np.testing.assert_allclose(np.exp(score_words(made.tables, marked([text]))[1:]), scores, rtol=1e-9)


@settings(max_examples=20)
@given(sentences, st.lists(st.integers(0, 3), max_size=2))
def test_pruned_models_are_still_distributions(texts, steps):
    order = min(3, max(len(text) for text in texts) + 2)
    thresholds = np.cumsum([0, *steps])[:order].tolist()
    counts = count_ngrams(marked(texts), V, order)
    made = smoothing.modified_kneser_ney(counts, discount_fallback=True, prune=thresholds)
    last = [*thresholds, *[thresholds[-1]] * order][:order]
    for table, count, threshold in zip(made.tables.orders, counts, last, strict=True):
        assert len(table.word) == (count.count > threshold).sum() if threshold else len(count.word)
    for probs in probabilities(made.tables, order).values():
        assert sum(probs) == pytest.approx(1.0)


# Discounts


def test_discounts_by_hand():
    """t = 4, 2, 1, 1: Y = 1/2; D = 1 - 2/4, 2 - 3/4, 3 - 4 * 1/2 = 1/2, 5/4, 1."""
    assert discounts_of(np.array([4, 2, 1, 1])) == pytest.approx((0.5, 1.25, 1.0))
    for undefined in ([0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 9], [9, 1, 9, 1]):
        assert discounts_of(np.array(undefined)) is None


def test_a_discount_may_be_all_of_a_count_but_no_more():
    """t = 2, 1, 1, 0: Y = 1/2, D_3 = 3 - 0; t_4 = 1 makes it 1; t = 1, 1, 2: D_2 = 2 - 3 * 2 / 3 = 0."""
    assert discounts_of(np.array([2, 1, 1, 0])) == pytest.approx((0.5, 0.5, 3.0))
    assert discounts_of(np.array([1, 1, 2, 1])) == pytest.approx((1 / 3, 0.0, 3 - 4 / 3 / 2))


def test_the_tool_counts_the_last_ngram_otherwise():
    """In suffix order the last unigram and bigram of these sentences occur twice after one left neighbour."""
    counts = count_ngrams(marked([[3, 4, 5], [3, 4, 5], [4, 3]]), V, 3)
    plain, compat = (smoothing.counts_of_counts(smoothing.adjusted_counts(counts)) for _ in range(2))
    smoothing._tally_last(compat, counts, smoothing.adjusted_counts(counts))
    # Unigram 5 follows only 4; bigram `4 5` follows only 3: each moves from one occurrence to two.
    np.testing.assert_array_equal(compat - plain, [[-1, 1, 0, 0], [-1, 1, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    "estimator", [smoothing.modified_kneser_ney, smoothing.kneser_ney, smoothing.absolute_discounting]
)
def test_undefined_discounts_name_their_order_and_the_remedy(estimator):
    counts = count_ngrams(marked([[3, 4], [3, 4]]), V, 2)
    with pytest.raises(ValueError, match=r"order 1 are undefined.*--discount_fallback"):
        estimator(counts)
    assert estimator(counts, discount_fallback=True).discounts[0, 0] == 0.5


@pytest.mark.parametrize("prune", [[1], [0, 2, 1], [0, 0, 0, 0]])
def test_thresholds_that_make_no_trie(prune):
    with pytest.raises(ValueError, match="pruning thresholds for orders 1 to 2"):
        smoothing.modified_kneser_ney(
            count_ngrams(marked([[3, 4]]), V, 2), discount_fallback=True, prune=prune
        )


@pytest.mark.parametrize("epsilons", [[], [0.0], [-1.0], [math.nan], [math.inf], [1.0, 1.0, 1.0]])
def test_epsilons_out_of_range(epsilons):
    with pytest.raises(ValueError, match="epsilons above 0"):
        smoothing.epsilon(count_ngrams(marked([[3, 4]]), V, 2), epsilons)


@pytest.mark.parametrize("fallback", ["shorter", "unigram"])
def test_fitted_epsilons_are_a_maximum(fallback):
    """The loss that the fit minimises is the model's, and no epsilon near by is better."""
    rng = np.random.default_rng(0)
    texts = [rng.geometric(0.4, size=8).clip(1, 3) + 2 for _ in range(60)]
    counts, held_out = count_ngrams(marked(texts[:40]), V, 3), marked(texts[40:])

    def loss(epsilons) -> float:
        return -score_words(smoothing.epsilon(counts, epsilons, fallback=fallback).tables, held_out).sum()

    fitted = smoothing.fit_epsilons(counts, held_out, fallback=fallback)
    for n in range(3):
        for factor in (0.8, 1.25):
            other = list(fitted)
            other[n] *= factor
            assert loss(fitted) <= loss(other) + 1e-3


# The reference tool: KenLM's lmplz of commit 4cb443e wrote the two files, from small.txt, with
# `-o 4 --discount_fallback` and with `-o 3 --discount_fallback --interpolate_unigrams 0 --prune 0 0 1`.


@pytest.mark.parametrize(
    ("name", "order", "settings"),
    [("small", 4, {}), ("small_pruned", 3, {"interpolate_unigrams": False, "prune": [0, 0, 1]})],
)
def test_equal_to_the_reference_tool(name, order, settings):
    with (GOLDEN / "small.txt").open("rb") as file:
        text = number_text(pieces(file))
    counts = count_ngrams(text.stream, len(text.words) + 3, order)
    made = smoothing.modified_kneser_ney(counts, discount_fallback=True, kenlm_compat=True, **settings)
    theirs = read_arpa(GOLDEN / f"{name}.arpa")
    assert [word.encode() for word in theirs.words] == text.words
    for ours, other in zip(dictionaries(made.tables), dictionaries(theirs.tables), strict=True):
        assert ours.keys() == other.keys()
        for gram, (log_prob, log_backoff) in other.items():
            np.testing.assert_allclose(ours[gram][1], log_backoff, atol=2e-6)
            if gram != (BOS_ID,):
                np.testing.assert_allclose(ours[gram][0], log_prob, atol=2e-6)


def test_what_the_reference_tool_says_of_sentences():
    """`query` of the same commit, log10: seen words, an unknown one, an empty line, unknown ones in a row."""
    theirs = read_arpa(GOLDEN / "small.arpa")
    text = "the ferry leaves the harbour at nine\nwe wait\n\nunknown unknown island\n"
    stream = look_up([text.encode()], [word.encode() for word in theirs.words])
    log_probs = score_words(theirs.tables, stream) / math.log(10)
    totals = np.add.reduceat(log_probs, np.flatnonzero(stream == BOS_ID))
    np.testing.assert_allclose(totals, [-7.540829, -2.139674, -1.0445492, -7.144201], atol=1e-5)
    assert (stream == UNK_ID).sum() == 3


def test_the_figures_of_ptb(data_dir):
    """Entries, discounts and perplexities that the reference tool gives; PTB's own `<unk>` is a word."""

    def read(split: str) -> list[bytes]:
        return [(data_dir / "ptb" / f"ptb.{split}.txt").read_bytes()]

    text = number_text(read("train"))
    counts = count_ngrams(text.stream, len(text.words) + 3, 5)
    assert [len(table.word) for table in counts] == [10002, 264990, 586558, 717733, 737952]
    ours, compat = (smoothing.modified_kneser_ney(counts, kenlm_compat=flag) for flag in (False, True))
    published = [
        [0.25656, 0.82888, 1.26492],
        [0.727802, 1.09876, 1.47130],
        [0.868879, 1.25462, 1.44822],
        [0.942828, 1.38314, 1.43173],
        [0.959671, 1.38790, 1.24171],
    ]
    np.testing.assert_allclose(compat.discounts, published, atol=6e-6)
    np.testing.assert_allclose(ours.discounts[0, 2], 1.26227, atol=6e-6)

    def perplexity(tables, split: str) -> float:
        stream = look_up(read(split), text.words)
        return math.exp(-score_words(tables, stream).sum() / (stream != BOS_ID).sum())

    assert perplexity(ours.tables, "test") == pytest.approx(141.186, abs=1e-3)
    assert perplexity(compat.tables, "valid") == pytest.approx(148.007, abs=1e-3)
    sharing = smoothing.modified_kneser_ney(counts, interpolate_unigrams=False, kenlm_compat=True)
    assert perplexity(sharing.tables, "test") == pytest.approx(142.890, abs=1e-3)
    trigrams = smoothing.modified_kneser_ney(counts[:3], kenlm_compat=True)
    assert perplexity(trigrams.tables, "test") == pytest.approx(148.281, abs=1e-3)


# From a config

MADE = {
    "maximum_likelihood": smoothing.maximum_likelihood,
    "epsilon": lambda counts: smoothing.epsilon(counts, [0.5, 2.0]),
    "epsilon_unigram": lambda counts: smoothing.epsilon(counts, [0.5, 2.0], fallback="unigram"),
    "absolute_discounting": lambda counts: smoothing.absolute_discounting(counts, discount_fallback=True),
    "witten_bell": smoothing.witten_bell,
    "kneser_ney": lambda counts: smoothing.kneser_ney(counts, discount_fallback=True),
    "modified_kneser_ney": lambda counts: smoothing.modified_kneser_ney(
        counts, discount_fallback=True, prune=[0, 0, 1][: len(counts)]
    ),
    "stupid_backoff": smoothing.stupid_backoff,
}


def test_each_smoothing_of_a_config_is_listed():
    assert set(MADE) == set(get_args(Smoothing))


@pytest.mark.parametrize("name", MADE)
def test_the_estimator_that_a_config_names(name):
    counts = count_ngrams(marked([[3, 4, 5, 3], [4, 4, 3], []]), V, 3)
    epsilons = "0.5,2" if name.startswith("epsilon") else ""
    prune = "0,0,1" if name == "modified_kneser_ney" else ""
    config = CountConfig(order=3, smoothing=name, discount_fallback=True, epsilons=epsilons, prune=prune)
    for n in (3, 2):  # of as many orders as there are counts
        found, expected = smoothing.estimate(config, counts[:n]), MADE[name](counts[:n])
        np.testing.assert_array_equal(found.discounts, expected.discounts)
        for table, other in zip(found.tables.orders, expected.tables.orders, strict=True):
            for one, two in zip(table, other, strict=True):
                np.testing.assert_array_equal(one, two)
        assert (found.tables.fallback, found.tables.log_unseen) == (
            expected.tables.fallback,
            expected.tables.log_unseen,
        )


def test_epsilons_come_from_the_config_or_from_a_fit():
    counts = count_ngrams(marked([[3, 4, 5, 3], [4, 4, 3], []]), V, 2)
    config = CountConfig(order=2, smoothing="epsilon")
    with pytest.raises(ValueError, match="give --epsilons, or pass what fit_epsilons finds"):
        smoothing.estimate(config, counts)
    fitted = smoothing.fit_epsilons(counts, marked([[3, 4], [5]]))
    found = smoothing.estimate(config, counts, epsilons=fitted).tables
    np.testing.assert_array_equal(
        found.orders[1].log_prob, smoothing.epsilon(counts, fitted).tables.orders[1].log_prob
    )


def test_an_unknown_smoothing_is_refused():
    counts = count_ngrams(marked([[3, 4]]), V, 2)
    config = CountConfig()
    object.__setattr__(config, "smoothing", "laplace")
    with pytest.raises(ValueError, match=r"expected one of maximum_likelihood, .* got 'laplace'"):
        smoothing.estimate(config, counts)

"""Counts and smoothing against dictionaries and the definitions, word by word; PTB's figures where PTB is."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.ngram.counts import (
    BOS_ID,
    EOS_ID,
    FIRST_WORD_ID,
    UNK_ID,
    adjusted_counts,
    count_ngrams,
    group,
    mark_sentences,
)
from lmseq.ngram.smoothing import FALLBACK, KneserNey, discounts_of, modified_kneser_ney

WORDS = 3
V = FIRST_WORD_ID + WORDS
word_ids = st.sampled_from([UNK_ID, *range(FIRST_WORD_ID, V)])
sentences = st.lists(st.lists(word_ids, max_size=7),
                     min_size=1, max_size=8)  # fmt: skip


def marked(texts) -> np.ndarray:
    return mark_sentences([np.array(text, np.int32) for text in texts])


def ngrams_of(texts, n: int) -> Counter:
    """Every window of every sentence with its marks."""
    whole = [(BOS_ID, *text, EOS_ID) for text in texts]
    return Counter(s[i : i + n] for s in whole for i in range(len(s) - n + 1))


def spelled(tables, n: int) -> list[tuple[int, ...]]:
    """The words of each entry of order n, followed down the prefixes."""
    if n == 1:
        return [(int(word),) for word in tables[0].word]
    below = spelled(tables, n - 1)
    return [(*below[p], int(w)) for p, w in zip(tables[n - 1].prefix, tables[n - 1].word, strict=True)]


@given(sentences, st.integers(1, 4))
def test_counts_by_dictionaries(texts, order):
    longest = max(len(text) for text in texts) + 2
    if order > longest:
        with pytest.raises(ValueError, match=f"order from 1 to {longest}"):
            count_ngrams(marked(texts), V, order)
        return
    tables = count_ngrams(marked(texts), V, order)
    names = [spelled(tables, n) for n in range(1, order + 1)]
    for n in range(1, order + 1):
        found = dict(zip(names[n - 1], tables[n - 1].count.tolist(), strict=True))
        assert len(found) == len(names[n - 1]), "an n-gram twice"
        assert {name: count for name, count in found.items() if count} == ngrams_of(texts, n)
        if n > 1:
            assert names[n - 1] == sorted(
                names[n - 1], key=lambda name: (names[n - 2].index(name[:-1]), name[-1])
            )
            for name, suffix in zip(names[n - 1], tables[n - 1].suffix, strict=True):
                assert names[n - 2][suffix] == name[1:]
    for n, a in enumerate(adjusted_counts(tables), start=1):
        for name, number in zip(names[n - 1], a.tolist(), strict=True):
            left = {longer[0] for longer in ngrams_of(texts, n + 1) if longer[1:] == name}
            whole = n == order or name[0] == BOS_ID
            expected = 0 if name == (BOS_ID,) else ngrams_of(texts, n)[name] if whole else len(left)
            assert number == expected, name


@given(st.lists(st.integers(0, 2**62), max_size=30), st.booleans())
def test_grouping_is_numpys_unique(keys, small):
    keys = np.array([key % 50 if small else key for key in keys], np.int64)
    distinct, places = np.unique(keys, return_inverse=True)
    found, ranks = group(keys)
    np.testing.assert_array_equal(found, distinct)
    np.testing.assert_array_equal(ranks, places)


def test_nothing_to_count_is_an_error():
    with pytest.raises(ValueError, match="empty text"):
        count_ngrams(mark_sentences([]), V, 2)


# Kneser-Ney by its definition


class ByDefinition:
    """The formulas of the reference, one n-gram at a time, over dictionaries."""

    def __init__(self, texts, order: int, interpolate_unigrams: bool = True) -> None:
        self.order, self.interpolate = order, interpolate_unigrams
        counts = {n: ngrams_of(texts, n) for n in range(1, order + 2)}
        self.a: dict[tuple[int, ...], int] = {}
        for n in range(1, order + 1):
            for gram, count in counts[n].items():
                whole = n == order or gram[0] == BOS_ID
                self.a[gram] = count if whole else sum(longer[1:] == gram for longer in counts[n + 1])
        self.a[BOS_ID,] = 0
        self.discounts = {}
        for n in range(1, order + 1):
            numbers = Counter(a for gram, a in self.a.items() if len(gram) == n)
            self.discounts[n] = discounts_of(np.array([numbers[k] for k in (1, 2, 3, 4)])) or FALLBACK
        self.after = defaultdict(list)
        for gram in self.a:
            self.after[gram[:-1]].append(gram)

    def discount(self, gram) -> float:
        return (0.0, *self.discounts[len(gram)])[min(self.a[gram], 3)]

    def total(self, context) -> float:
        return sum(self.a[gram] for gram in self.after[context])

    def backoff(self, context) -> float:
        total = self.total(context)
        return sum(self.discount(gram) for gram in self.after[context]) / total if total else 1.0

    def prob(self, word: int, context: tuple[int, ...]) -> float:
        context = context[max(0, len(context) - self.order + 1) :]
        if word == BOS_ID:
            return 0.0
        gram = (*context, word)
        own = 0.0
        if self.total(context) and self.a.get(gram):
            own = (self.a[gram] - self.discount(gram)) / self.total(context)
        if context:
            return own + self.backoff(context) * self.prob(word, context[1:])
        if self.interpolate:
            return own + self.backoff(()) / (V - 1)
        return self.backoff(()) + own if word == UNK_ID else own


def looked_up(model: KneserNey, word: int, context: tuple[int, ...]) -> float:
    """p(w | context) from the tables: the longest entry seen, times the back-offs of longer contexts."""
    names = [spelled(model.tables, n) for n in range(1, len(model.tables) + 1)]
    log_weight = 0.0
    for start in range(len(context) + 1):
        seen, gram = context[start:], (*context[start:], word)
        if len(gram) <= len(names) and gram in names[len(gram) - 1]:
            table = model.tables[len(gram) - 1]
            return math.exp(log_weight + table.log_prob[names[len(gram) - 1].index(gram)])
        if seen and len(seen) <= len(names) and seen in names[len(seen) - 1]:
            log_weight += model.tables[len(seen) - 1].log_backoff[names[len(seen) - 1].index(seen)]
    raise AssertionError("every word has a unigram")


@settings(max_examples=25)
@given(sentences, st.integers(1, 3), st.booleans())
def test_kneser_ney_by_its_definition(texts, order, interpolate):
    order = min(order, max(len(text) for text in texts) + 2)
    tables = count_ngrams(marked(texts), V, order)
    model = modified_kneser_ney(tables, interpolate_unigrams=interpolate, discount_fallback=True)
    reference = ByDefinition(texts, order, interpolate)
    contexts = [(), (BOS_ID,), (3,), (BOS_ID, 3), (3, 4), (4, 4)]
    for context in (c for c in contexts if len(c) < order):
        probs = [looked_up(model, word, context) for word in range(V)]
        np.testing.assert_allclose(
            probs, [reference.prob(word, context) for word in range(V)], rtol=1e-9, atol=1e-12
        )
        assert sum(probs) == pytest.approx(1.0)


def test_discounts_by_hand():
    """t = 4, 2, 1, 1: Y = 1/2; D = 1 - 2/4, 2 - 3/4, 3 - 4 * 1/2 = 1/2, 5/4, 1."""
    assert discounts_of(np.array([4, 2, 1, 1])) == pytest.approx((0.5, 1.25, 1.0))
    for undefined in ([0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 9], [9, 1, 9, 1]):
        assert discounts_of(np.array(undefined)) is None


def test_undefined_discounts_name_their_order_and_the_remedy():
    tables = count_ngrams(marked([[3, 4], [3, 4]]), V, 2)
    with pytest.raises(ValueError, match=r"order 1 are undefined.*--discount_fallback"):
        modified_kneser_ney(tables)
    np.testing.assert_array_equal(
        modified_kneser_ney(tables, discount_fallback=True).discounts, [FALLBACK] * 2
    )


def test_the_reference_tools_statistics_count_one_ngram_otherwise():
    """The last n-gram in suffix order, with its occurrences instead of its left neighbours."""
    rng = np.random.default_rng(0)
    words = FIRST_WORD_ID + np.minimum(rng.geometric(0.15, size=4000), 30) - 1
    texts = np.split(words, np.arange(10, 4000, 10))
    tables = count_ngrams(marked(texts), FIRST_WORD_ID + 30, 3)
    ours, theirs = (
        modified_kneser_ney(tables, kenlm_compat=compat, discount_fallback=True) for compat in (0, 1)
    )
    np.testing.assert_array_equal(ours.discounts[2], theirs.discounts[2])  # the highest order is raw already


def test_the_figures_of_ptb(data_dir):
    """Entries, discounts and perplexities of the reference tool; PTB's own `<unk>` is a word like others."""
    ids = defaultdict(lambda: len(ids) + FIRST_WORD_ID)

    def read(split: str) -> np.ndarray:
        lines = (data_dir / "ptb" / f"ptb.{split}.txt").read_text(encoding="utf-8").splitlines()
        return mark_sentences([np.array([ids[w] for w in line.split()], np.int32) for line in lines])

    train, test = read("train"), read("test")
    tables = count_ngrams(train, len(ids) + FIRST_WORD_ID, 5)
    assert [len(table.word) for table in tables] == [10002, 264990, 586558, 717733, 737952]
    model = modified_kneser_ney(tables, kenlm_compat=True)
    published = [
        [0.25656, 0.82888, 1.26492],
        [0.727802, 1.09876, 1.47130],
        [0.868879, 1.25462, 1.44822],
        [0.942828, 1.38314, 1.43173],
        [0.959671, 1.38790, 1.24171],
    ]
    np.testing.assert_allclose(model.discounts, published, atol=6e-6)
    np.testing.assert_allclose(modified_kneser_ney(tables).discounts[0, 2], 1.26227, atol=6e-6)
    assert test.size - (test == BOS_ID).sum() == 82_430

"""Counting by sorting against dictionaries, in one piece and in many, in memory and in files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.ngram import counts, smoothing
from lmseq.ngram.counts import BOS_ID, UNK_ID, Column, adjusted_counts, count_ngrams, group, mark_sentences
from tests.ngrams import ByDefinition, V, marked, ngrams_of, sentences, spelled


def names_of(tables):
    return spelled([table.prefix for table in tables], [table.word for table in tables])


@given(sentences, st.integers(1, 4))
def test_counts_by_dictionaries(texts, order):
    longest = max(len(text) for text in texts) + 2
    if order > longest:
        with pytest.raises(ValueError, match=f"order from 1 to {longest}"):
            count_ngrams(marked(texts), V, order)
        return
    tables = count_ngrams(marked(texts), V, order)
    names = names_of(tables)
    for n in range(1, order + 1):
        found = dict(zip(names[n - 1], tables[n - 1].count.tolist(), strict=True))
        assert len(found) == len(names[n - 1]), "an n-gram twice"
        assert {name: count for name, count in found.items() if count} == ngrams_of(texts, n)
        if n > 1:
            below = {name: rank for rank, name in enumerate(names[n - 2])}
            assert names[n - 1] == sorted(names[n - 1], key=lambda name: (below[name[:-1]], name[-1]))
            assert [below[name[1:]] for name in names[n - 1]] == tables[n - 1].suffix.tolist()
    reference = ByDefinition(texts, order)
    for name, a in zip(names, adjusted_counts(tables), strict=True):
        assert a.tolist() == [reference.adjusted.get(gram, 0) for gram in name]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 40]), st.booleans())
def test_pieces_merge_to_one_pass(tmp_path_factory, seed, at_once, in_files):
    """However few pairs are sorted at once, in memory or in files, the tables are the same."""
    rng = np.random.default_rng(seed)
    stream = marked([rng.geometric(0.3, size=rng.integers(0, 9)).clip(1, 9) + 2 for _ in range(30)])
    order = min(4, int(np.diff(np.append(np.flatnonzero(stream == BOS_ID), len(stream))).max()))
    folder = tmp_path_factory.mktemp("tables") if in_files else None
    whole = count_ngrams(stream, 12, order)
    for one, other in zip(
        whole, count_ngrams(stream, 12, order, folder=folder, at_once=at_once), strict=True
    ):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


@given(st.lists(st.integers(0, 2**62), max_size=30), st.booleans())
def test_grouping_is_numpys_unique(keys, small):
    keys = np.array([key % 50 if small else key for key in keys], np.int64)
    distinct, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
    found = group(keys)
    np.testing.assert_array_equal(found.distinct, distinct)
    np.testing.assert_array_equal(found.ranks, places)
    np.testing.assert_array_equal(found.count, counts)
    np.testing.assert_array_equal(keys[found.example], distinct)


def test_a_large_vocabulary():
    """Ids near 2^31: pairs that do not fit beside their places, sorted the slower way."""
    top = 2**31 - 10
    keys = np.array([(5 << 31) | top, (4 << 31) | 3, (5 << 31) | top], np.int64) << 1
    assert group(keys).ranks.tolist() == [1, 0, 1]


@given(st.lists(st.integers(0, 8), max_size=50))
def test_left_neighbours_of_large_tables(ranks):
    ranks = np.array(ranks, np.int32)
    expected = np.bincount(ranks, minlength=9)
    for large in (1, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(counts, "LARGE", large)
            np.testing.assert_array_equal(counts._tally(ranks, 9), expected)


def test_nothing_to_count_is_an_error():
    with pytest.raises(ValueError, match="empty text"):
        count_ngrams(mark_sentences([]), V, 2)
    with pytest.raises(ValueError, match="without <unk>"):
        count_ngrams(marked([[UNK_ID]]), V, 2)


def test_an_empty_column(tmp_path):
    for folder in (None, tmp_path):
        assert Column(folder, "x", 0).finish().tolist() == []


def test_unigram_probabilities():
    log_probs = smoothing.unigram_log_probs(np.array([0, 0, 0, 2]), 4)
    np.testing.assert_allclose(np.exp(log_probs), [4 / 8, 1 / 8, 2 / 8, 1 / 8], rtol=1e-14)

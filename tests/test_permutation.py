"""The order by formula: a bijection of any range, and no order that one could guess."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from lmseq.data.permutation import ROUNDS, permute


def keys(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2**64, size=ROUNDS, dtype=np.uint64)


@given(size=st.integers(1, 3000), seed=st.integers(0, 10**6))
def test_every_place_comes_once(size, seed):
    order = permute(np.arange(size), size, keys(seed))
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    chosen = np.arange(0, size, 7)
    np.testing.assert_array_equal(permute(chosen, size, keys(seed)), order[chosen])


def test_a_range_of_two_to_the_forty():
    size = 2**40 + 12345
    order = permute(size - 1 - np.arange(1000), size, keys(0))
    assert order.min() >= 0 and order.max() < size and len(set(order.tolist())) == 1000
    assert order.max() > 2**39


def test_places_pairs_and_residues_are_as_if_drawn():
    """Chi-squared of where an index goes, of the step to the next, and of residues, over many keys."""
    size, number = 12, 1500
    orders = np.stack([permute(np.arange(size), size, keys(seed)) for seed in range(number)])
    for values in (orders[:, 0], orders[:, 7], (orders[:, 5] - orders[:, 4]) % size - 1):
        bins = values.max() + 1  # a step is never 0
        counts = np.bincount(values)
        expected = number / bins
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, bins - 1)
    long = permute(np.arange(10**5), 10**5, keys(1))
    for modulus in (2, 7, 64):  # the first fifth of an epoch has its share of every residue
        counts = np.bincount(long[: 2 * 10**4] % modulus, minlength=modulus)
        expected = 2 * 10**4 / modulus
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, modulus - 1)


def test_what_is_out_of_range():
    with pytest.raises(ValueError, match=r"expected indices in 0 \.\.\. 4, got 3 \.\.\. 5"):
        permute(np.array([3, 5]), 5, keys(0))

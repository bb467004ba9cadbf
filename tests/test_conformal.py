"""Quantiles of scores: ranks by their definition, and coverage of exchangeable errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from lmseq import calibration, conformal


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=60), st.sampled_from(conformal.LEVELS))
def test_quantiles_are_order_statistics(scores, level):
    found = conformal.score_quantiles(np.array(scores)[:, None], [level])[0, 0]
    place = (len(scores) + 1) * level
    if level == 0.5:
        assert found == 0
    elif level > 0.5:
        below = sum(score <= found for score in scores)
        assert below >= min(place - 1e-9, len(scores)) or found == max(scores)
    else:
        above = sum(score >= found for score in scores)
        assert above >= min((len(scores) + 1) * (1 - level) - 1e-9, len(scores)) or found == min(scores)


def test_few_scores_give_the_furthest_and_none_gives_none():
    scores = np.array([[1.0, np.nan], [-2.0, np.nan], [3.0, np.nan]])
    found = conformal.score_quantiles(scores, [0.05, 0.5, 0.95])
    np.testing.assert_array_equal(found, [[-2.0, np.nan], [0.0, 0.0], [3.0, np.nan]])
    assert [conformal.least_scores(level) for level in (0.05, 0.1, 0.9, 0.975)] == [19, 9, 9, 39]


@settings(max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([19, 39, 120]))
def test_exchangeable_errors_are_covered(seed, num_scores):
    """Of N new errors the share within has a binomial's spread, given which quantiles were drawn."""
    rng = np.random.default_rng(seed)
    trials, level = 3000, 0.9
    scores = rng.standard_t(3, (num_scores, trials))
    low, high = conformal.score_quantiles(scores, [1 - level, level])
    new = rng.standard_t(3, trials)
    for inside in (new <= high, new >= low):
        expected = np.ceil((num_scores + 1) * level - 1e-9) / (num_scores + 1)
        assert inside.sum() >= binom.ppf(1e-6, trials, level)
        assert (
            abs(inside.sum() - trials * expected)
            <= binom.ppf(1 - 1e-6, trials, expected) - trials * expected + 1
        )


def test_coverage_is_of_known_values():
    actual = np.array([1.0, 2.0, np.nan, 5.0])
    assert calibration.coverage(np.zeros(4), np.full(4, 2.0), actual) == pytest.approx(2 / 3)
    assert np.isnan(calibration.coverage(np.zeros(1), np.ones(1), np.array([np.nan])))

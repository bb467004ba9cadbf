"""Scores of distributions against integrals, enumeration and what must hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from lmseq.calibration import coverage, crps_normal, crps_samples, pinball

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("mean, scale, y", [(0.0, 1.0, 0.0), (1.0, 0.3, -2.0), (-3.0, 5.0, 8.0)])
def test_crps_of_a_normal_is_the_integral_of_its_definition(mean, scale, y):
    def squared(x):
        return (stats.norm.cdf(x, mean, scale) - (x >= y)) ** 2

    far = 40 * scale
    parts = [(mean - far - abs(y), y), (y, mean + far + abs(y))]
    expected = sum(integrate.quad(squared, *part, limit=200)[0] for part in parts)
    assert crps_normal(*np.array([[mean], [scale], [y]]))[0] == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.floats(-1e3, 1e3))
def test_crps_of_samples_over_all_pairs(samples, y):
    x = np.array(samples)
    pairs = np.abs(x[:, None] - x[None]).mean()
    expected = np.abs(x - y).mean() - pairs / 2
    assert crps_samples(x[None], np.array([y]))[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_crps_of_many_samples_is_that_of_their_distribution():
    samples = RNG.normal(2.0, 3.0, size=(3, 200_000))
    y = np.array([0.0, 2.0, 9.0])
    np.testing.assert_allclose(
        crps_samples(samples, y), crps_normal(np.full(3, 2.0), np.full(3, 3.0), y), rtol=0.02
    )


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_the_true_quantile_has_the_least_pinball_loss(level):
    y = RNG.exponential(size=100_000)
    grid = np.linspace(0.0, 4.0, 401)
    losses = [pinball(np.full((y.size, 1), q), y, [level]).mean() for q in grid]
    assert grid[np.argmin(losses)] == pytest.approx(stats.expon.ppf(level), abs=0.05)


def test_half_the_absolute_error_at_the_median():
    np.testing.assert_allclose(pinball(np.array([[1.0]]), np.array([4.0]), [0.5]), [[1.5]])


def test_coverage_counts_what_is_known():
    y = np.array([0.0, 1.0, 2.0, np.nan])
    assert coverage(np.zeros(4), np.ones(4), y) == 2 / 3
    assert np.isnan(coverage(np.zeros(1), np.ones(1), np.array([np.nan])))

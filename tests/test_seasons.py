"""Seasons: those of frequencies, and those that values show; none where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data.seasons import season_of
from lmseq.data.series_files import bundled


@pytest.mark.parametrize(
    "frequency, season",
    [
        *[
            ("h", 24),
            ("2h", 12),
            ("15min", 96),
            ("30min", 48),
            ("min", 1440),
            ("s", 86400),
            ("D", 7),
            ("B", 5),
        ],
        *[("W-SUN", 52), ("MS", 12), ("ME", 12), ("3MS", 4), ("QS-OCT", 4), ("QE-DEC", 4), ("YS-JAN", 1)],
        *[("5D", 0), ("7h", 0), ("2D", 0)],
    ],
)
def test_of_a_frequency(frequency, season):
    assert season_of(np.arange(9.0), frequency) == season


@given(st.integers(20, 200), st.integers(0, 99), st.integers(1200, 3000))
def test_of_a_noisy_sine(period, seed, size):
    rng = np.random.default_rng(seed)
    values = 9 * np.sin(2 * np.pi * np.arange(size) / period + rng.uniform(0, 6)) + rng.normal(size=size)
    assert abs(season_of(values) - period) <= 2
    assert season_of(1e6 - 1e3 * values) == season_of(values)


@given(st.integers(2, 30), st.integers(0, 99))
def test_of_a_profile_that_recurs(period, seed):
    rng = np.random.default_rng(seed)
    profile = np.arange(period) if period < 5 else rng.permutation(period)
    values = np.tile(profile, 20) + 0.05 * rng.normal(size=20 * period)
    assert season_of(values) % period == 0 and season_of(values) <= 2 * period
    holed = np.where(rng.uniform(size=values.size) < 0.05, np.nan, values)
    assert season_of(holed) % period == 0 and season_of(holed) > 0


def autoregression(phi: float, size: int, seed: int) -> np.ndarray:
    noise, values = np.random.default_rng(seed).normal(size=size), np.zeros(size)
    for t in range(1, size):
        values[t] = phi * values[t - 1] + noise[t]
    return values


@given(st.floats(0, 0.99) | st.just(1.0), st.sampled_from([60, 200, 700]), st.integers(0, 10**6))
def test_of_what_has_none(phi, size, seed):
    """AR(1), and random walks, whose autocorrelation swings as well."""
    assert season_of(autoregression(phi, size, seed)) == 0


def test_of_what_alternates():
    assert season_of(autoregression(-0.8, 1000, 0)) == 0 and season_of(np.arange(50.0) % 2) == 2


@pytest.mark.parametrize(
    "values", [[], [1], [2] * 50, range(50), [np.nan] * 30, 0.1 * np.arange(40) + 7], ids=len
)
def test_of_nothing(values):
    assert season_of(np.array(values, np.float64)) == 0


def test_of_known_series():
    pytest.importorskip("statsmodels")
    found = {name: season_of(bundled(name, "interpolate").values[:, 0]) for name in ("co2", "elnino", "nile")}
    assert found == {"co2": 52, "elnino": 12, "nile": 0}
    sunspots = bundled("sunspots").values[:, 0]
    assert abs(season_of(sunspots) - 11) <= 1 and season_of(sunspots[:185]) == 11

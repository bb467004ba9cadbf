"""The metrics of the M competitions against their definitions, and against published figures."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lmseq import accuracy

values = arrays(np.float64, (2, 3, 1), elements=st.floats(-100, 100))


@given(values, values)
def test_smape_is_its_definition(forecasts, actual):
    found = accuracy.smape(forecasts, actual)
    for f, y, got in zip(forecasts.flat, actual.flat, found.flat, strict=True):
        assert got == pytest.approx(0.0 if f == y == 0 else 200 * abs(y - f) / (abs(y) + abs(f)))
    assert ((found >= 0) & (found <= 200 + 1e-9)).all()


def test_the_unit_of_the_scaled_error():
    train = np.array([[1.0], [4.0], [2.0], [8.0]])
    assert accuracy.seasonal_scale(train, 0) == accuracy.seasonal_scale(train, 1) == pytest.approx(11 / 3)
    assert accuracy.seasonal_scale(train, 2) == pytest.approx((1 + 4) / 2)
    assert accuracy.seasonal_scale(train, 9) == pytest.approx(11 / 3), "a season not seen whole is none"
    train[1] = np.nan
    assert accuracy.seasonal_scale(train, 1) == pytest.approx(6.0)


def test_means_are_of_what_is_known():
    rows = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(accuracy.mean_known(rows, 0), [2.0, np.nan])
    assert accuracy.mean_known(rows) == 2.0


@given(st.integers(2, 13), st.integers(0, 50))
def test_factors_of_a_pure_season_are_found(period, seed):
    factors = np.random.default_rng(seed).uniform(0.5, 1.5, period)
    factors /= factors.mean()
    series = 3.0 * np.tile(factors, 5)
    np.testing.assert_allclose(accuracy.seasonal_factors(series, period), factors, rtol=1e-9)
    if accuracy.is_seasonal(series, period):
        np.testing.assert_allclose(
            accuracy.naive2(series, period, 2 * period), np.tile(3 * factors, 2), rtol=1e-9
        )


def test_decomposition_is_that_of_statsmodels():
    seasonal = pytest.importorskip("statsmodels.tsa.seasonal")
    rng = np.random.default_rng(0)
    for period in (7, 12):
        series = 10 + rng.random(100).cumsum() + np.sin(2 * np.pi * np.arange(100) / period)
        theirs = seasonal.seasonal_decompose(series, model="multiplicative", period=period).seasonal[:period]
        np.testing.assert_allclose(accuracy.seasonal_factors(series, period), theirs, rtol=1e-9)


def test_what_has_no_season_repeats_its_last_value():
    walk = np.random.default_rng(1).normal(size=50).cumsum() + 100
    for series, period in ((walk, 1), (walk[:20], 12), (np.full(50, 2.0), 5), (walk - 100, 12)):
        np.testing.assert_array_equal(accuracy.naive2(series, period, 3), series[-1])


@pytest.mark.skipif(
    not (Path(os.environ.get("LMSEQ_DATA_DIR", "/none")) / "m4").is_dir(), reason="M4 is not there"
)
def test_published_figures_of_m4_hourly():
    """Makridakis et al. 2020: naive, seasonal naive and Naive2 of the 414 hourly series."""
    folder = Path(os.environ["LMSEQ_DATA_DIR"]) / "m4"
    rows = {}
    for part in ("train", "test"):
        lines = (folder / f"Hourly-{part}.csv").read_text().splitlines()[1:]
        rows[part] = [
            np.array([float(cell.strip('"')) for cell in line.split(",")[1:] if cell.strip('"')])
            for line in lines
        ]
    forecasts = {
        "naive": [np.full(48, x[-1]) for x in rows["train"]],
        "seasonal": [np.tile(x[-24:], 2) for x in rows["train"]],
        "naive2": [accuracy.naive2(x, 24, 48) for x in rows["train"]],
    }
    units = np.array([accuracy.seasonal_scale(x[:, None], 24)[0] for x in rows["train"]])
    found = {}
    for name, points in forecasts.items():
        points, actual = np.stack(points), np.stack(rows["test"])
        mase = np.abs(points - actual).mean(axis=1) / units
        found[name] = (accuracy.smape(points, actual).mean(), mase.mean())
    assert found["naive"] == pytest.approx((43.003, 11.608), abs=5e-4)
    assert found["seasonal"] == pytest.approx((13.912, 1.193), abs=5e-4)
    assert found["naive2"] == pytest.approx((18.383, 2.395), abs=5e-4)

"""Synthetic series: generators against their equations, and the closed-form oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.signal import lfilter

from lmseq.data import synthetic as s


@pytest.mark.parametrize("name", s.GENERATORS)
def test_the_generator_of_a_name_makes_the_series_of_that_name(name):
    made = s.GENERATORS[name](np.random.default_rng(0), 50)
    again = s.GENERATORS[name](np.random.default_rng(0), 50)
    assert made.name == name and made.values.shape == (50, len(made.columns))
    assert made.values.dtype == np.float64 and np.isfinite(made.values).all()
    np.testing.assert_array_equal(made.values, again.values)


@pytest.mark.parametrize("phi", [(0.6, -0.3, 0.2), (0.9,), (1.2, -0.5)])
def test_the_closed_form_error_curve_by_a_million_origins(phi):
    """e_{t+k} of the optimal forecast: the noise after t, filtered; simulated without the formula."""
    rng, horizon, origins = np.random.default_rng(0), 6, 1_000_000
    state = np.zeros((len(phi), origins))  # deviations of the truth from the forecast, newest first
    for k in range(horizon):
        newest = np.tensordot(np.array(phi), state, 1) + 0.5 * rng.normal(size=origins)
        state = np.vstack([newest[None], state[:-1]])
        # The standard error of an RMSE over independent normal errors is rmse / sqrt(2 O).
        assert np.sqrt(np.mean(newest**2)) == pytest.approx(
            s.ar_optimal_rmse(np.array(phi), 0.5, horizon)[k], rel=0.004
        )


@pytest.mark.parametrize("phi", [(0.6, -0.3, 0.2), (0.95,)])
def test_an_autoregression_obeys_its_recursion_from_its_stationary_law(phi):
    made = s.autoregression(np.random.default_rng(0), 20_000, np.array(phi), noise_scale=0.3)
    x, order = made.values[:, 0], len(phi)
    noise = x[order:] - sum(phi[j] * x[order - 1 - j : len(x) - 1 - j] for j in range(order))
    assert noise.std() == pytest.approx(0.3, rel=0.03) and abs(noise.mean()) < 0.01
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.03
    stationary = s.ar_optimal_rmse(np.array(phi), 0.3, 2000)[-1]
    firsts = [
        s.autoregression(np.random.default_rng(i), 3, np.array(phi), 0.3).values[:, 0] for i in range(3000)
    ]
    np.testing.assert_allclose(np.std(firsts, axis=0), stationary, rtol=0.06)


@given(seed=st.integers(0, 10_000), order=st.integers(1, 6))
def test_random_coefficients_are_stable(seed, order):
    phi = s.random_coefficients(np.random.default_rng(seed), order)
    assert s.check_stable(phi).shape == (order,)
    decayed = lfilter([1.0], np.concatenate([[1.0], -phi]), np.eye(1, 20_000)[0])
    assert abs(decayed[-1]) < 1e-3


@pytest.mark.parametrize("phi", [(1.0,), (-1.01,), (0.5, 0.5), (2.0, -1.0), (np.nan,), ()])
def test_unstable_coefficients_are_refused(phi):
    with pytest.raises(ValueError, match="expected"):
        s.check_stable(np.array(phi))


def test_the_logistic_map_and_the_noise_of_the_sines():
    x = s.logistic_map(np.random.default_rng(0), 500).values[:, 0]
    np.testing.assert_array_equal(x[1:], 4 * x[:-1] * (1 - x[:-1]))
    t = np.arange(1, 50_001)
    sine = s.noisy_sine(np.random.default_rng(0), 50_000).values[:, 0] - np.sin(0.01 * t)
    season = s.trend_and_season(np.random.default_rng(0), 50_000).values[:, 0]
    season -= 0.002 * t + np.sin(2 * np.pi * t / 24) + 0.5 * np.sin(2 * np.pi * t / 168)
    for noise, scale in ((sine, 0.2), (season, 0.1)):
        assert noise.std() == pytest.approx(scale, rel=0.02) and abs(noise.mean()) < 0.01 * scale * 3


def test_lorenz_as_a_solver_of_scipy_has_it():
    x = s.lorenz(np.random.default_rng(0), 60).values

    def slope(_, v):
        return [10 * (v[1] - v[0]), v[0] * (28 - v[2]) - v[1], v[0] * v[1] - 8 / 3 * v[2]]

    times = s.LORENZ_STEP * np.arange(60)
    solved = solve_ivp(slope, (0, times[-1]), x[0], t_eval=times, rtol=1e-10, atol=1e-10).y.T
    np.testing.assert_allclose(x, solved, atol=2e-4)
    assert 10 < np.ptp(s.lorenz(np.random.default_rng(1), 2000).values[:, 0]) < 45  # on the attractor


def test_mackey_glass_solves_its_equation():
    """Integrated once more over one delay, from the series itself and its interpolated past."""
    x = s.mackey_glass(np.random.default_rng(0), 300).values[:, 0]
    times = np.arange(300.0)
    spline = CubicSpline(times, x)

    def slope(t, v):
        delayed = spline(t - 17)
        return 0.2 * delayed / (1 + delayed**10) - 0.1 * v

    solved = solve_ivp(slope, (100, 116), [x[100]], t_eval=times[100:117], rtol=1e-8, atol=1e-10).y[0]
    np.testing.assert_allclose(x[100:117], solved, atol=2e-3)
    assert 0.2 < x.min() < 0.7 < 1.1 < x.max() < 1.5

"""Error curves against loops, and the growth of errors where it is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq import errors

D = 2  # variables of a series


def test_the_error_curve_by_a_loop():
    rng = np.random.default_rng(0)
    points, targets = rng.normal(size=(11, 4, D)), rng.normal(size=(11, 4, D))
    curve = errors.error_curve(points, targets)
    for k in range(4):
        misses = [points[o, k, d] - targets[o, k, d] for o in range(11) for d in range(D)]
        by_origin = [np.sqrt(np.mean((points[o, k] - targets[o, k]) ** 2)) for o in range(11)]
        assert curve.rmse[k] == pytest.approx(np.sqrt(np.mean(np.square(misses))))
        assert curve.mae[k] == pytest.approx(np.mean(np.abs(misses)))
        assert curve.log_error[k] == pytest.approx(np.mean(np.log(np.abs(misses))))
        assert (curve.low[k], curve.high[k]) == pytest.approx(tuple(np.quantile(by_origin, [0.1, 0.9])))


def test_an_error_of_nothing_has_a_finite_logarithm():
    curve = errors.error_curve(np.ones((3, 2, 1)), np.ones((3, 2, 1)))
    assert np.isfinite(curve.log_error).all() and (curve.rmse == 0).all()


def test_a_horizon_at_which_nothing_came_is_unknown():
    targets = np.array([[[1.0], [np.nan]], [[2.0], [np.nan]]])
    curve = errors.error_curve(np.zeros((2, 2, 1)), targets)
    for values in curve:
        assert np.isfinite(values[0]) and np.isnan(values[1])


def test_forecasts_that_run_off_are_infinitely_wrong():
    points = np.array([[[1.0], [np.inf]], [[2.0], [np.inf]]])
    assert errors.error_curve(points, np.zeros((2, 2, 1))).rmse[1] == np.inf


@pytest.mark.parametrize("error", [0.0, np.inf, np.nan])
def test_no_growth_from_nothing_nor_to_infinity(error):
    logs = errors.log_size(np.array([1e-3, 1e-3, error, 1e-2, 1e-1, 1.0, 1.0, 1.0]))
    assert errors.growth_per_step(logs, slice(1, 5)) is None
    assert errors.growth_per_step(logs, slice(3, 6)) == pytest.approx(np.log(10))


@pytest.mark.parametrize(("slope", "stop"), [(0.5, 13), (0.25, 26), (0.1, 30)])
def test_growth_is_measured_where_it_is(slope, stop):
    """-9 + 0.5 * 13 = -2.5 and -9 + 0.25 * 26, the margin below saturation at -1; or not saturated yet."""
    k = np.arange(40)
    curve = np.minimum(-9.0 + slope * k, -1.0)
    phase = errors.growth_phase(curve)
    assert phase.start == 1
    if slope > 0.2:
        saturated = curve[-10:].mean()
        assert phase.stop == int(np.argmax(curve >= saturated - errors.GROWTH_MARGIN)) <= stop
        assert phase.stop >= stop - 2
    assert errors.growth_per_step(curve, phase) == pytest.approx(slope)


def test_nothing_grows_in_a_flat_or_falling_curve():
    for curve in (np.zeros(40), -0.1 * np.arange(40.0), np.array([1.0])):
        assert errors.growth_per_step(curve, errors.growth_phase(curve)) is None


def test_the_exponent_of_the_logistic_map():
    """Perturbed by 1e-10, without any model: the mean logarithm grows by ln 2, the RMSE by ln sqrt 8."""
    rng = np.random.default_rng(0)
    x = rng.beta(0.5, 0.5, size=100_000)  # the invariant law
    y, misses = x + 1e-10 * rng.normal(size=x.size), []
    for _ in range(60):
        misses.append((y - x)[:, None])
        x, y = 4 * x * (1 - x), 4 * np.clip(y, 0, 1) * (1 - np.clip(y, 0, 1))
    points = np.stack(misses, axis=1)
    curve = errors.error_curve(points, np.zeros_like(points))
    phase = errors.growth_phase(curve.log_error)
    assert errors.growth_per_step(curve.log_error, phase) == pytest.approx(np.log(2), rel=0.03)
    early = slice(1, 10)
    assert errors.growth_per_step(np.log(curve.rmse), early) == pytest.approx(np.log(np.sqrt(8)), rel=0.1)


curves = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 2.0, np.nan]), st.sampled_from([1.0, 1.5])), min_size=1
)


@given(curves)
def test_the_last_horizon_below_by_a_loop(pairs):
    expected = 0
    while expected < len(pairs) and pairs[expected][0] < pairs[expected][1]:
        expected += 1
    curve, level = np.array(pairs).T
    assert errors.last_horizon_below(curve, level) == expected

"""Forecasts of values: all origins at once against one at a time, curves against loops, oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq import prediction
from lmseq.data.series import ar_optimal_rmse, autoregression
from lmseq.models.build import build_series_model
from lmseq.series_config import SeriesModelConfig
from tests.test_series_models import ALL, D, small

T, K, FIRST = 30, 7, 6
VALUES = np.random.default_rng(5).normal(size=(T, D)).astype(np.float32)


def one_at_a_time(model, params, seen: np.ndarray, horizon: int) -> np.ndarray:
    """What anybody would write: step through what was seen, then feed each prediction back."""
    carry, points = model.init_carry(params, 1), []
    for x in seen:
        carry = model.update(params, carry, jnp.asarray(x)[None])
    for _ in range(horizon):
        points.append(model.readout(params, carry).mean)
        carry = model.update(params, carry, points[-1])
    return np.asarray(jnp.concatenate(points))


@pytest.mark.parametrize("name", ALL)
def test_all_origins_at_once_equal_one_at_a_time(name):
    model, params = small(name)
    points = prediction.k_step_points(model, params, VALUES, max_horizon=K, first_origin=FIRST)
    assert points.shape == (T - K - FIRST + 1, K, D)
    for t in (FIRST, FIRST + 1, 15, T - K):
        expected = one_at_a_time(model, params, VALUES[:t], K)
        np.testing.assert_allclose(points[t - FIRST], expected, rtol=1e-4, atol=1e-4)
    blocks = prediction.k_step_points(model, params, VALUES, max_horizon=K, first_origin=FIRST, block=4)
    np.testing.assert_allclose(blocks, points, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["mlp", "gru, normal", "linear"])
@pytest.mark.parametrize("horizon", [2, 3, 7])
def test_direct_forecasts_feed_back_only_beyond_their_reach(name, horizon):
    model, params = small(name, num_direct=3)
    points = prediction.k_step_points(model, params, VALUES, max_horizon=horizon, first_origin=FIRST)
    for t in (FIRST, T - horizon):
        carry, expected = model.init_carry(params, 1), []
        for x in VALUES[:t]:
            carry = model.update(params, carry, jnp.asarray(x)[None])
        while len(expected) < horizon:
            for mean in model.readout_direct(params, carry).mean[0]:
                expected.append(mean)
                carry = model.update(params, carry, mean[None])
        np.testing.assert_allclose(points[t - FIRST], np.array(expected[:horizon]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "lstm", "drift"])
def test_free_running_is_the_curve_of_its_origin(name):
    model, params = small(name)
    free = prediction.free_run(model, params, VALUES[:12], num_steps=K)
    points = prediction.k_step_points(model, params, VALUES, max_horizon=K, first_origin=12)
    np.testing.assert_allclose(free, points[0], rtol=1e-5, atol=1e-5)


@given(length=st.integers(2, 30), horizon=st.integers(1, 10), first=st.integers(1, 10))
def test_targets_by_a_loop(length, horizon, first):
    values = np.random.default_rng(length).normal(size=(length, D))
    if first > length - horizon:
        with pytest.raises(ValueError, match="expected an origin after"):
            prediction.k_step_targets(values, max_horizon=horizon, first_origin=first)
        return
    targets = prediction.k_step_targets(values, max_horizon=horizon, first_origin=first)
    expected = [values[t : t + horizon] for t in range(first, length - horizon + 1)]
    np.testing.assert_array_equal(targets, expected)


@pytest.mark.parametrize("horizon, first", [(0, 1), (1, 0), (T, 1), (5, T - 4)])
def test_origins_out_of_range_are_refused(horizon, first):
    model, params = small("mlp")
    with pytest.raises(ValueError, match="longer series or a smaller horizon"):
        prediction.k_step_points(model, params, VALUES, max_horizon=horizon, first_origin=first)


# Sampled paths


def test_paths_have_the_moments_of_the_head():
    model, params = small("linear, normal")
    key, seen = jax.random.key(0), VALUES[:9]
    paths = np.asarray(prediction.sample_paths(key, model, params, seen, num_paths=40_000, num_steps=2))
    again = prediction.sample_paths(key, model, params, seen, num_paths=40_000, num_steps=2)
    np.testing.assert_array_equal(paths, again)
    carry = model.unroll(params, model.init_carry(params, 1), jnp.asarray(seen)[None])[0]
    mean, scale = (np.asarray(part)[0] for part in model.readout(params, carry))
    assert (np.abs(paths[:, 0].mean(axis=0) - mean) < 5 * scale / 200).all()
    np.testing.assert_allclose(paths[:, 0].std(axis=0), scale, rtol=0.03)


def test_a_random_walk_spreads_with_the_root_of_time():
    model, params = small("persistence")
    paths = prediction.sample_paths(
        jax.random.key(1), model, params, VALUES[:3], num_paths=20_000, num_steps=16
    )
    variance = np.asarray(paths).var(axis=0)
    np.testing.assert_allclose(variance, np.arange(1, 17)[:, None] * np.ones(D), rtol=0.08)


# Curves


def test_the_error_curve_by_a_loop():
    rng = np.random.default_rng(0)
    points, targets = rng.normal(size=(11, 4, D)), rng.normal(size=(11, 4, D))
    curve = prediction.error_curve(points, targets)
    for k in range(4):
        errors = [points[o, k, d] - targets[o, k, d] for o in range(11) for d in range(D)]
        by_origin = [np.sqrt(np.mean((points[o, k] - targets[o, k]) ** 2)) for o in range(11)]
        assert curve.rmse[k] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
        assert curve.mae[k] == pytest.approx(np.mean(np.abs(errors)))
        assert curve.log_error[k] == pytest.approx(np.mean(np.log(np.abs(errors))))
        assert (curve.low[k], curve.high[k]) == pytest.approx(tuple(np.quantile(by_origin, [0.1, 0.9])))


def test_an_error_of_nothing_has_a_finite_logarithm():
    curve = prediction.error_curve(np.ones((3, 2, 1)), np.ones((3, 2, 1)))
    assert np.isfinite(curve.log_error).all() and (curve.rmse == 0).all()


def test_growth_is_measured_where_it_is():
    k = np.arange(40)
    curve = np.minimum(-9.0 + 0.5 * k, -1.0)
    phase = prediction.growth_phase(curve)
    assert (phase.start, phase.stop) == (1, 13)  # -9 + 0.5 * 13 = -2.5, the margin below saturation
    assert prediction.growth_per_step(curve, phase) == pytest.approx(0.5)
    assert prediction.growth_per_step(np.zeros(40), prediction.growth_phase(np.zeros(40))) is None


def test_the_exponent_of_the_logistic_map():
    """Perturbed by 1e-10, without any model: the mean logarithm grows by ln 2, the RMSE by ln sqrt 8."""
    rng = np.random.default_rng(0)
    x = rng.beta(0.5, 0.5, size=200_000)  # the invariant law
    y, errors = x + 1e-10 * rng.normal(size=x.size), []
    for _ in range(60):
        errors.append((y - x)[:, None])
        x, y = 4 * x * (1 - x), 4 * np.clip(y, 0, 1) * (1 - np.clip(y, 0, 1))
    points = np.stack(errors, axis=1)
    curve = prediction.error_curve(points, np.zeros_like(points))
    phase = prediction.growth_phase(curve.log_error)
    assert prediction.growth_per_step(curve.log_error, phase) == pytest.approx(np.log(2), rel=0.03)
    early = slice(1, 10)
    assert prediction.growth_per_step(np.log(curve.rmse), early) == pytest.approx(np.log(np.sqrt(8)), rel=0.1)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), min_size=1, max_size=8))
def test_the_last_horizon_below_by_a_loop(curve):
    expected = 0
    while expected < len(curve) and curve[expected] < 1.5:
        expected += 1
    level = np.full(len(curve), 1.5)
    assert prediction.last_horizon_below(np.array(curve), level) == expected


@pytest.mark.parametrize("phi", [(0.9, -0.5), (0.3, 0.5), (1.6, -0.8)])
def test_the_true_autoregression_has_the_least_error(phi):
    made = autoregression(np.random.default_rng(1), 200_000, np.array(phi), noise_scale=0.7)
    model = build_series_model(SeriesModelConfig(model="linear", tau=2), 1)
    kernel = jnp.asarray([[phi[1]], [phi[0]]], jnp.float32)
    params = {"value_head": {"mean_kernel": kernel, "mean_bias": jnp.zeros(1)}}
    points = prediction.k_step_points(model, params, made.values, max_horizon=20, first_origin=2)
    targets = prediction.k_step_targets(made.values, max_horizon=20, first_origin=2)
    rmse = prediction.error_curve(np.asarray(points), targets).rmse
    np.testing.assert_allclose(rmse, ar_optimal_rmse(np.array(phi), 0.7, 20), rtol=0.015)
    np.testing.assert_allclose(made.oracle_rmse(20), ar_optimal_rmse(np.array(phi), 0.7, 20))

"""Forecasts of values: all origins at once against one at a time, sampled paths, the least error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq import errors, rollout
from lmseq.config.series import SeriesModelConfig
from lmseq.data.synthetic import ar_optimal_rmse, autoregression
from lmseq.models.build import build_series_model
from tests.test_series_models import BASELINES, FITTED, D, advance, readout, small

T, K, FIRST, REACH = 24, 7, 6, 3
VALUES = np.random.default_rng(5).normal(size=(T, D)).astype(np.float32)
ORIGINS = (FIRST, 11, T - K)
KINDS = [*FITTED, "mlp, normal", "gru, normal", *BASELINES]


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


def after(model, params, seen: np.ndarray):
    """Carry and prediction after what was seen, a step at a time."""
    carry = model.init_carry(params, 1)
    for x in seen:
        carry, predicted = advance(model, params, carry, x[None])
    return carry, predicted


def one_at_a_time(model, params, seen: np.ndarray, horizon: int) -> np.ndarray:
    """What anybody would write: step through what was seen, then feed each prediction back."""
    (carry, predicted), points = after(model, params, seen), []
    for _ in range(horizon):
        points.append(np.asarray(predicted.mean))
        carry, predicted = advance(model, params, carry, points[-1])
    return np.concatenate(points)


readout_direct = jax.jit(lambda model, params, carry: model.readout_direct(params, carry), static_argnums=0)


def direct_one_at_a_time(model, params, seen: np.ndarray, horizon: int) -> np.ndarray:
    """REACH steps by the head, which are fed back only where more are wanted."""
    carry, points = after(model, params, seen)[0], []
    while len(points) < horizon:
        for mean in np.asarray(readout_direct(model, params, carry).mean[0]):
            points.append(mean)
            carry, _ = advance(model, params, carry, mean[None])
    return np.array(points[:horizon])


@pytest.mark.parametrize("name", KINDS)
def test_all_origins_at_once_equal_one_at_a_time(name):
    model, params = small(name)
    points = rollout.k_step_points(model, params, VALUES, max_horizon=K, first_origin=FIRST)
    assert len(points) == T - K - FIRST + 1
    for t in ORIGINS:
        assert_close(points[t - FIRST], one_at_a_time(model, params, VALUES[:t], K))


@pytest.mark.parametrize("name", ["mlp", "linear", "gru, normal", "minlstm"])
@pytest.mark.parametrize("horizon", [2, REACH, 7])
def test_direct_forecasts_feed_back_only_beyond_their_reach(name, horizon):
    model, params = small(name, num_direct=REACH)
    points = rollout.k_step_points(model, params, VALUES, max_horizon=horizon, first_origin=FIRST)
    assert len(points) == T - horizon - FIRST + 1
    for t in (FIRST, T - horizon):
        assert_close(points[t - FIRST], direct_one_at_a_time(model, params, VALUES[:t], horizon))


@pytest.mark.parametrize(("name", "num_direct"), [("lstm", 1), ("drift", 1), ("mlp", REACH)])
def test_blocks_make_no_difference(name, num_direct):
    """12 origins in blocks of 5 (the last is short), 4, 1, and more than there are."""
    model, params = small(name, num_direct)
    whole = rollout.k_step_points(model, params, VALUES, max_horizon=K, first_origin=FIRST, block=100)
    assert len(whole) == 12
    for block in (5, 4, 1):
        points = rollout.k_step_points(model, params, VALUES, max_horizon=K, first_origin=FIRST, block=block)
        assert_close(points, whole)


@pytest.mark.parametrize(("name", "num_direct"), [("mlp", 1), ("lstm", 1), ("drift", 1), ("gru", REACH)])
def test_free_running_is_the_curve_of_its_origin(name, num_direct):
    model, params = small(name, num_direct)
    free = rollout.free_run(model, params, VALUES[:12], num_steps=K)
    points = rollout.k_step_points(model, params, VALUES, max_horizon=K, first_origin=FIRST)
    assert_close(free, points[12 - FIRST])


@given(length=st.integers(2, 30), horizon=st.integers(0, 10), first=st.integers(0, 10))
def test_targets_by_a_loop(length, horizon, first):
    values = np.random.default_rng(length).normal(size=(length, D))
    if horizon < 1 or first < 1 or first > length - horizon:
        with pytest.raises(ValueError, match="expected an origin after"):
            rollout.k_step_targets(values, max_horizon=horizon, first_origin=first)
        return
    targets = rollout.k_step_targets(values, max_horizon=horizon, first_origin=first)
    expected = [values[t : t + horizon] for t in range(first, length - horizon + 1)]
    np.testing.assert_array_equal(targets, expected)


@pytest.mark.parametrize(("horizon", "first"), [(0, 1), (1, 0), (1, -1), (T, 1), (5, T - 4)])
def test_origins_out_of_range_are_refused(horizon, first):
    model, params = small("mlp")
    with pytest.raises(ValueError, match="longer series or a smaller horizon"):
        rollout.k_step_points(model, params, VALUES, max_horizon=horizon, first_origin=first)


@pytest.mark.parametrize(("num_seen", "num_steps"), [(0, 3), (3, 0)])
def test_a_free_run_needs_a_past_and_a_future(num_seen, num_steps):
    model, params = small("mlp")
    with pytest.raises(ValueError, match="at least 1"):
        rollout.free_run(model, params, VALUES[:num_seen], num_steps=num_steps)
    with pytest.raises(ValueError, match="at least 1"):
        rollout.sample_paths(
            jax.random.key(0), model, params, VALUES[:num_seen], num_paths=2, num_steps=num_steps
        )


# Sampled paths

NUM_PATHS = 40_000


@pytest.mark.parametrize("name", ["linear, normal", "gru, normal"])
def test_paths_have_the_moments_of_the_head(name):
    model, params = small(name)

    def paths_of(seed: int):
        key = jax.random.key(seed)
        drawn = rollout.sample_paths(key, model, params, VALUES[:9], num_paths=NUM_PATHS, num_steps=2)
        return np.asarray(drawn)

    paths = paths_of(0)
    np.testing.assert_array_equal(paths, paths_of(0))
    assert (paths != paths_of(1)).mean() > 0.99
    mean, scale = (np.asarray(part)[0] for part in after(model, params, VALUES[:9])[1])
    assert (np.abs(paths[:, 0].mean(axis=0) - mean) < 5 * scale / np.sqrt(NUM_PATHS)).all()
    assert (np.abs(paths[:, 0].var(axis=0) / scale**2 - 1) < 5 * np.sqrt(2 / NUM_PATHS)).all()
    if name.startswith("gru"):
        return
    # The second step is drawn about what its own first step leads to: the residuals are white again.
    windows = np.concatenate([np.tile(VALUES[7:9], (NUM_PATHS, 1, 1)), paths[:, :1]], axis=1)
    second = readout(model, params, jnp.asarray(windows))
    z = (paths[:, 1] - second.mean) / second.scale
    assert (np.abs(np.mean(z, axis=0)) < 5 / np.sqrt(NUM_PATHS)).all()
    assert (np.abs(np.var(z, axis=0) - 1) < 5 * np.sqrt(2 / NUM_PATHS)).all()


def test_a_random_walk_spreads_with_the_root_of_time():
    model, params = small("persistence")
    paths = rollout.sample_paths(jax.random.key(1), model, params, VALUES[:3], num_paths=20_000, num_steps=16)
    expected = np.arange(1, 17)[:, None] * np.ones(D)
    np.testing.assert_allclose(np.asarray(paths).var(axis=0), expected, rtol=5 * np.sqrt(2 / 20_000))


def test_no_paths_are_refused():
    model, params = small("persistence")
    with pytest.raises(ValueError, match="num_paths of at least 1"):
        rollout.sample_paths(jax.random.key(0), model, params, VALUES, num_paths=0, num_steps=1)


@pytest.mark.parametrize("phi", [(0.9, -0.5), (0.3, 0.5), (1.6, -0.8)])
def test_the_true_autoregression_has_the_least_error(phi):
    made = autoregression(np.random.default_rng(1), 200_000, np.array(phi), noise_scale=0.7)
    model = build_series_model(SeriesModelConfig(model="linear", tau=2), 1)
    kernel = jnp.asarray([[phi[1]], [phi[0]]], jnp.float32)
    params = {"value_head": {"mean_kernel": kernel, "mean_bias": jnp.zeros(1)}}
    points = rollout.k_step_points(model, params, made.values, max_horizon=20, first_origin=2)
    targets = rollout.k_step_targets(made.values, max_horizon=20, first_origin=2)
    rmse = errors.error_curve(np.asarray(points), targets).rmse
    np.testing.assert_allclose(rmse, ar_optimal_rmse(np.array(phi), 0.7, 20), rtol=0.015)
    np.testing.assert_allclose(made.oracle_rmse(20), ar_optimal_rmse(np.array(phi), 0.7, 20))

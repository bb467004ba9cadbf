"""Windows are made alike by their inputs alone, and forecasts are brought back exactly."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lmseq import rollout
from lmseq.config.series import SeriesModelConfig
from lmseq.contract import log_prob, scan_unroll
from lmseq.models import linear
from lmseq.models.build import build_series_model
from lmseq.models.normalised import Normalisation, Normalised, statistics
from lmseq.training import objectives
from lmseq.training.gradient import StepInfo
from lmseq.types import Batch

KINDS = get_args(Normalisation)
finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("kind", KINDS)
@given(arrays(np.float64, (3, 5, 2), elements=finite), arrays(np.float64, (3, 4, 2), elements=finite))
def test_every_normalisation_is_undone(kind, windows, ahead):
    found = statistics(windows, kind)
    for values in (windows, ahead):
        size = max(1.0, np.abs(values).max(), np.abs(windows).max())
        np.testing.assert_allclose(found.undo(found.apply(values)), values, rtol=0, atol=1e-12 * size)


@given(arrays(np.float64, (2, 6, 1), elements=finite))
def test_what_the_statistics_are(windows):
    at = {kind: statistics(windows, kind) for kind in KINDS}
    np.testing.assert_array_equal(at["none"].apply(windows), windows)
    np.testing.assert_array_equal(at["last"].apply(windows)[:, -1], 0.0)
    np.testing.assert_allclose(at["mean"].apply(windows).mean(axis=1), 0.0, atol=1e-9)
    for row in windows[:, :, 0]:
        one = row[None, :, None]
        size = np.abs(row).mean()
        if size > 1e-3:
            assert statistics(one, "scale").scale == pytest.approx(size)
        if row.std() > 1e-3:
            normal = statistics(one, "instance").apply(one)
            assert (normal.mean(), normal.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.0, 3.0, -1e6])
def test_a_constant_window_has_no_size(kind, level):
    for dtype in (np.float32, np.float64):
        windows = np.full((1, 4, 1), level, dtype)
        found = statistics(windows, kind)
        assert found.scale.dtype == dtype and np.isfinite(found.apply(windows)).all()
        assert found.scale == (abs(level) if kind == "scale" and level else 1.0)


def model_of(kind: str, **settings) -> tuple[Normalised, dict]:
    config = SeriesModelConfig(tau=5, hidden_size=6, normalisation=kind, **settings)
    model = build_series_model(config, 2, num_direct=3)
    return model, model.init(jax.random.key(1))


XS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 2)).cumsum(axis=1), jnp.float32)


@pytest.mark.parametrize("kind", ["last", "mean", "scale", "instance"])
@pytest.mark.parametrize("model", ["mlp", "gru", "linear"])
def test_a_normalised_model_keeps_the_contract(kind, model):
    model, params = model_of(kind, model=model)
    start = model.init_carry(params, 2)
    carry, found = model.unroll(params, start, XS)
    last, expected = scan_unroll(model, params, start, XS)
    np.testing.assert_array_equal(carry, last)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.carries(params, start, XS)[:, -1], last)
    direct = model.readout_direct(params, carry)
    assert direct.mean.shape == (2, 3, 2)
    np.testing.assert_allclose(direct.mean[:, 0], model.readout(params, carry).mean, rtol=1e-5)


@pytest.mark.parametrize("model", ["mlp", "lstm"])
@pytest.mark.parametrize(
    ("kind", "shift", "size"), [("mean", 7.0, 1.0), ("last", -3.0, 1.0), ("scale", 0.0, 4.0)]
)
def test_forecasts_move_and_grow_with_the_series(kind, shift, size, model):
    """A model of windows minus their level forecasts a lifted series by its forecast, lifted."""
    model, params = model_of(kind, model=model)
    plain, moved = (
        rollout.k_step_points(model, params, values, max_horizon=3, first_origin=6)
        for values in (XS[0], size * XS[0] + shift)
    )
    np.testing.assert_allclose(moved, size * np.asarray(plain) + shift, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_direct", [1, 3])
def test_forecasts_in_numpy_are_those_of_the_contract(kind, num_direct):
    config = SeriesModelConfig(model="linear", tau=4, normalisation=kind)
    model = build_series_model(config, 2, num_direct=num_direct)
    assert isinstance(model, rollout.HostModel) and isinstance(model, linear.LinearMap)
    assert isinstance(model, rollout.DirectModel) == (num_direct > 1)
    params = model.init(jax.random.key(3))
    windows = np.random.default_rng(1).normal(size=(7, 4, 2)).astype(np.float32)
    found = model.host_points(params, windows, 5)
    expected = rollout.rollout(model, params, jnp.asarray(windows), 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["mlp", "gru"])
def test_what_a_direct_model_of_windows_is_trained_on(model):
    """The loss of every origin of a segment, each by itself; what lies before is only read."""
    model, params = model_of("mean", model=model)
    tau, num_ahead, origins = 5, 3, 4
    xs = jnp.asarray(np.random.default_rng(2).normal(size=(2, tau + origins + num_ahead - 1, 2)), jnp.float32)
    batch = Batch(xs[:, :-1], xs[:, 1:], jnp.ones((2, xs.shape[1] - 1), bool))
    carry = model.init_carry(params, 2)
    step = StepInfo(jnp.int32(0), jax.random.key(0), jnp.array(True))
    found = objectives.direct(model, params, carry, batch, step, tau=tau, num_ahead=num_ahead).minimised
    expected = 0.0
    for origin in range(tau, tau + origins):
        ahead = model.readout_direct(params, xs[:, origin - tau : origin])
        expected -= float(log_prob(ahead, xs[:, origin : origin + num_ahead]).sum())
    assert found.count == 2 * origins * num_ahead
    assert float(found.nll) == pytest.approx(expected, rel=1e-4)

"""Models of values under the contract: scans, halves, heads, baselines, least squares."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmseq import contract, evaluation, likelihood
from lmseq.models.build import build_series_model
from lmseq.models.linear import fit_least_squares
from lmseq.series_config import SeriesModelConfig
from lmseq.types import Normal

D, T, B, PERIOD = 2, 9, 3, 4
KINDS = {
    "mlp": SeriesModelConfig(tau=3, hidden_size=5),
    "mlp, one layer, relu": SeriesModelConfig(tau=3, hidden_size=5, num_layers=1, activation="relu"),
    "mlp, residual, gelu": SeriesModelConfig(
        tau=2, hidden_size=5, num_layers=3, activation="gelu", residual=True
    ),
    "mlp, silu": SeriesModelConfig(tau=1, hidden_size=5, activation="silu"),
    "linear": SeriesModelConfig(model="linear", tau=3),
    **{
        kind: SeriesModelConfig(model=kind, hidden_size=4, num_layers=2)
        for kind in ("rnn", "gru", "lstm", "mingru", "minlstm")
    },
    **{kind: SeriesModelConfig(model=kind) for kind in ("mean", "persistence", "seasonal", "drift")},
}
NORMAL = [f"{kind}, normal" for kind in ("mlp", "linear", "gru", "minlstm")]
ALL = [*KINDS, *NORMAL]


@cache
def small(name: str, num_direct: int = 1):
    """A model and parameters drawn far from where training starts."""
    config = KINDS[name.removesuffix(", normal")]
    if name in NORMAL:
        config = SeriesModelConfig(**{**vars(config), "head": "normal"})
    model = build_series_model(config, D, num_direct=num_direct, period=PERIOD)
    rng = np.random.default_rng(len(name))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(0.6 * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )


def values(batch: int, time: int = T) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, time, D)), jnp.float32)


def later_carry(model, params, batch: int):
    """A carry that has seen something."""
    return model.unroll(params, model.init_carry(params, batch), values(batch, 5)[:, ::-1])[0]


def assert_close(actual, expected, atol: float = 2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=atol), actual, expected)


@pytest.mark.parametrize("name", ALL)
def test_the_contract(name):
    """unroll, carries and token_log_probs are what a scan of update and readout gives."""
    model, params = small(name)
    carry, xs = later_carry(model, params, B), values(B)
    expected_end, expected = contract.scan_unroll(model, params, carry, xs)
    end, predictions = model.unroll(params, carry, xs)
    assert_close((end, predictions), (expected_end, expected))
    assert_close(model.carries(params, carry, xs), contract.scan_carries(model, params, carry, xs))
    targets = xs[:, ::-1]
    end, log_probs = model.token_log_probs(params, carry, xs, targets)
    assert_close((end, log_probs), (expected_end, contract.log_prob(expected, targets)), atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_halves_and_single_rows(name):
    model, params = small(name)
    carry, xs = later_carry(model, params, B), values(B)
    end, whole = model.unroll(params, carry, xs)
    middle, left = model.unroll(params, carry, xs[:, :4])
    last, right = model.unroll(params, middle, xs[:, 4:])
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), left, right)
    assert_close((last, joined), (end, whole))
    row = jax.tree.map(lambda leaf: leaf[1:2], (carry, xs))
    assert_close(model.unroll(params, *row)[1], jax.tree.map(lambda leaf: leaf[1:2], whole))


@pytest.mark.parametrize("name", ["mlp", "linear, normal", "lstm", "drift", "seasonal"])
def test_the_likelihood_of_a_series_by_the_code_of_text(name):
    """Whole, in strips of any cut, and by a plain loop: the first value counts."""
    model, params = small(name)
    xs = values(1, 50)[0]
    carry, expected = model.init_carry(params, 1), []
    for x in xs:
        mean, scale = model.readout(params, carry)
        expected.append(stats.norm.logpdf(np.asarray(x), np.asarray(mean[0]), np.asarray(scale[0])).sum())
        carry = model.update(params, carry, x[None])
    np.testing.assert_allclose(likelihood.score(model, params, xs), expected, rtol=1e-4, atol=1e-4)
    for num_steps, batch_size in ((7, 1), (3, 4), (256, 32)):
        scored = evaluation.score_stream(model, params, xs, num_steps=num_steps, batch_size=batch_size)
        np.testing.assert_allclose(scored, expected, rtol=1e-4, atol=1e-4)


def test_the_scale_of_a_normal_head_moves_and_of_a_point_does_not():
    for name, moves in (("mlp", False), ("mlp, normal", True)):
        model, params = small(name)
        scale = np.asarray(model.unroll(params, model.init_carry(params, 1), values(1))[1].scale)
        assert (scale > 0).all() and (np.ptp(scale) > 1e-3) == moves
        assert moves or (scale == 1).all()


def test_activation_and_residual_change_what_is_computed():
    base = {"tau": 2, "hidden_size": 5, "num_layers": 2}
    variants = [{"activation": a} for a in ("tanh", "relu", "gelu", "silu")] + [{"residual": True}]
    params = build_series_model(SeriesModelConfig(**base), D).init(jax.random.key(0))
    seen = []
    for variant in variants:
        model = build_series_model(SeriesModelConfig(**base, **variant), D)
        seen.append(model.unroll(params, model.init_carry(params, 1), values(1))[1].mean)
    for i, one in enumerate(seen):
        assert all(np.abs(one - other).max() > 1e-3 for other in seen[:i])


def test_baselines_in_a_line_each():
    xs = np.asarray(values(1)[0])
    after = {}
    for name in ("mean", "persistence", "seasonal", "drift"):
        model, params = small(name)
        after[name] = model.unroll(params, model.init_carry(params, 1), jnp.asarray(xs)[None])[1].mean[0]
    np.testing.assert_array_equal(after["mean"], np.zeros((T, D)))
    np.testing.assert_array_equal(after["persistence"], xs)
    np.testing.assert_array_equal(after["seasonal"][PERIOD - 1 :], xs[: T - PERIOD + 1])
    slope = (xs[1:] - xs[0]) / np.arange(1, T)[:, None]
    np.testing.assert_allclose(after["drift"][1:], xs[1:] + slope, rtol=1e-5)


def test_a_seasonal_forecast_needs_a_period():
    with pytest.raises(ValueError, match="--period"):
        build_series_model(SeriesModelConfig(model="seasonal"), D)


# Least squares


def series(length: int = 400) -> np.ndarray:
    rng, x = np.random.default_rng(3), np.zeros((length, D))
    for t in range(2, length):
        x[t] = 0.5 * x[t - 1, ::-1] - 0.3 * x[t - 2] + rng.normal(size=D) * [1.0, 0.2]
    return x


def by_hand(x: np.ndarray, tau: int, k: int):
    """Windows by a loop, with a column of ones, and the values k steps after each."""
    rows = range(len(x) - tau - k + 1)
    design = np.array([np.append(x[i : i + tau].reshape(-1), 1.0) for i in rows])
    return design, np.array([x[i + tau + k - 1] for i in rows])


@pytest.mark.parametrize("tau", [1, 3])
def test_least_squares_by_hand(tau):
    x = series()
    head = fit_least_squares(x, tau, "point")["value_head"]
    design, labels = by_hand(x, tau, 1)
    weights = np.linalg.solve(design.T @ design, design.T @ labels)
    np.testing.assert_allclose(np.vstack([head["mean_kernel"], head["mean_bias"]]), weights, atol=1e-6)
    model = build_series_model(SeriesModelConfig(model="linear", tau=tau), D)
    predicted = model.unroll(
        {"value_head": head}, model.init_carry({}, 1), jnp.asarray(x, jnp.float32)[None]
    )[1]
    np.testing.assert_allclose(predicted.mean[0, tau - 1 : -1], design @ weights, atol=1e-5)


def test_least_squares_of_several_steps_at_once():
    x, horizon = series(), 3
    head = fit_least_squares(x, 2, "point", horizon)["value_head"]
    rows = len(x) - 2 - horizon + 1
    for k in range(1, horizon + 1):
        design, labels = (part[:rows] for part in by_hand(x, 2, k))
        weights = np.linalg.lstsq(design, labels)[0]
        mine = np.vstack([head["mean_kernel"], head["mean_bias"]])[:, D * (k - 1) : D * k]
        np.testing.assert_allclose(mine, weights, atol=1e-6)


def test_least_squares_as_statsmodels_has_it():
    autoreg = pytest.importorskip("statsmodels.tsa.ar_model").AutoReg
    x = series()[:, :1]
    fitted = autoreg(x[:, 0], 3, trend="c").fit()
    head = fit_least_squares(x, 3, "point")["value_head"]
    # statsmodels: constant, then the newest lag first.
    np.testing.assert_allclose(head["mean_bias"], fitted.params[:1], atol=1e-5)
    np.testing.assert_allclose(head["mean_kernel"][::-1, 0], fitted.params[1:], atol=1e-5)


def test_the_normal_head_of_least_squares_is_the_likeliest():
    x = series()
    params = fit_least_squares(x, 2, "normal")
    model = build_series_model(SeriesModelConfig(model="linear", tau=2, head="normal"), D)
    stream = jnp.asarray(x, jnp.float32)

    @jax.jit
    def log_density(params):
        _, log_probs = model.token_log_probs(params, stream[None, :2], stream[None, 2:-1],
                                             stream[None, 3:])  # fmt: skip
        return log_probs.mean()

    design, labels = by_hand(x, 2, 1)
    residuals = labels - design @ np.linalg.lstsq(design, labels)[0]
    prediction: Normal = model.readout(params, stream[None, :2])
    np.testing.assert_allclose(prediction.scale[0], residuals.std(axis=0), rtol=1e-4)
    best = log_density(params)
    for name in params["value_head"]:
        for change in (0.05, -0.05):
            moved = {**params["value_head"], name: params["value_head"][name] + np.float32(change)}
            assert log_density({"value_head": moved}) < best


def test_too_few_windows_are_refused():
    with pytest.raises(ValueError, match="at least 9 windows to fit as many weights, got 4"):
        fit_least_squares(series(8), 4, "point")
    with pytest.raises(ValueError, match="longer series"):
        fit_least_squares(series(4), 4, "point")

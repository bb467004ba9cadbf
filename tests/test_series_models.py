"""Models of values under the contract: scans, halves, rows, heads, baselines, least squares."""

import dataclasses
import itertools
from functools import cache, partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmseq import contract, scoring
from lmseq.config.kinds import CellKind
from lmseq.config.series import BASELINES, SeriesModelConfig
from lmseq.models.build import build_series_model
from lmseq.models.linear import fit_least_squares
from lmseq.types import Normal

D, T, B, PERIOD = 2, 9, 3, 4
MLP = SeriesModelConfig(tau=3, hidden_size=5)
FITTED = {
    "mlp": MLP,
    "mlp, one layer, relu": dataclasses.replace(MLP, num_layers=1, activation="relu"),
    "mlp, residual, gelu": dataclasses.replace(MLP, tau=2, residual=True, activation="gelu"),
    "mlp, silu": dataclasses.replace(MLP, tau=1, activation="silu"),
    "linear": SeriesModelConfig(model="linear", tau=3),
    **{kind: SeriesModelConfig(model=kind, hidden_size=4, num_layers=2) for kind in get_args(CellKind)},
    "attention": SeriesModelConfig(model="attention", hidden_size=8, num_heads=2, window=3),
    "stack": SeriesModelConfig(
        model="stack", layers="lstm,gated_deltanet", hidden_size=6, num_heads=2, value_size=2, chunk=2
    ),
}
KINDS = {
    **FITTED,
    **{f"{name}, normal": dataclasses.replace(config, head="normal") for name, config in FITTED.items()},
    "mlp, three members": dataclasses.replace(MLP, ensemble=3),
    "gru, three members, normal": dataclasses.replace(FITTED["gru"], ensemble=3, head="normal"),
    **{kind: SeriesModelConfig(model=kind) for kind in BASELINES},
}
every_model = pytest.mark.parametrize("name", list(KINDS))


def drawn(shapes, seed: int = 0):
    """Reals far from where training starts; an integer (the count of the drift) is 3."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(0.6 * rng.normal(size=leaf.shape) if real else np.full(leaf.shape, 3), leaf.dtype)

    return jax.tree.map(draw, shapes)


@cache
def small(name: str, num_direct: int = 1):
    """A model and its parameters."""
    model = build_series_model(KINDS[name], D, num_direct=num_direct, period=PERIOD)
    return model, drawn(jax.eval_shape(model.init, jax.random.key(0)), len(name))


def values(*shape: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, D)), jnp.float32)


@partial(jax.jit, static_argnums=0)
def readout(model, params, carry):
    return model.readout(params, carry)


@partial(jax.jit, static_argnums=0)
def advance(model, params, carry, x):
    """One step of the loop that anybody would write: the carry after x, and what it predicts."""
    carry = model.update(params, carry, x)
    return carry, model.readout(params, carry)


@partial(jax.jit, static_argnums=0)
def unroll(model, params, carry, xs):
    return model.unroll(params, carry, xs)


def assert_close(actual, expected, atol: float = 2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=atol), actual, expected)


@partial(jax.jit, static_argnums=0)
def figures(model, params, carry, xs, targets):
    """All that the contract relates, in one program: what is found, and what it must be."""
    end, whole = contract.scan_unroll(model, params, carry, xs)
    middle, left = model.unroll(params, carry, xs[:, :4])
    last, right = model.unroll(params, middle, xs[:, 4:])
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), left, right)
    row = jax.tree.map(lambda leaf: leaf[1:2], (carry, xs))
    found = {
        "unroll": model.unroll(params, carry, xs),
        "halves": (last, joined),
        "carries": model.carries(params, carry, xs),
        "log_probs": model.token_log_probs(params, carry, xs, targets),
        "row": model.unroll(params, *row),
    }
    return found, {
        "unroll": (end, whole),
        "halves": (end, whole),
        "carries": contract.scan_carries(model, params, carry, xs),
        "log_probs": (end, contract.log_prob(whole, targets)),
        "row": jax.tree.map(lambda leaf: leaf[1:2], (end, whole)),
    }


@every_model
def test_the_contract(name):
    """Scan, halves, carries, log-probabilities, and a row by itself, from a carry that has seen something."""
    model, params = small(name)
    carry = drawn(jax.eval_shape(lambda: model.init_carry(params, B)), 7)
    found, expected = figures(model, params, carry, values(B, T), values(B, T, seed=2))
    log_probs = (found.pop("log_probs"), expected.pop("log_probs"))
    assert_close(found, expected)
    assert_close(*log_probs, atol=2e-4)  # where the scale is small, a density magnifies the mean's rounding
    predictions = expected["unroll"][1]
    density = stats.norm.logpdf(values(B, T, seed=2), predictions.mean, predictions.scale).sum(axis=-1)
    np.testing.assert_allclose(log_probs[0][1], density, rtol=1e-4, atol=2e-4)
    spread = float(np.ptp(np.asarray(predictions.scale)))
    assert spread > 1e-3 if "normal" in name else (predictions.scale == 1).all()


def test_a_density_is_that_of_scipy():
    rng = np.random.default_rng(0)
    mean, x, scale = (
        rng.normal(size=(4, 3, D)),
        2 * rng.normal(size=(4, 3, D)),
        rng.uniform(0.01, 5, (4, 3, D)),
    )
    found = contract.log_prob(Normal(*(jnp.asarray(a, jnp.float32) for a in (mean, scale))), jnp.float32(x))
    np.testing.assert_allclose(found, stats.norm.logpdf(x, mean, scale).sum(axis=-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp, normal", "lstm", "minlstm, normal", "drift"])
def test_the_likelihood_of_a_series_by_the_code_of_text(name):
    """Whole, in strips of any cut, and by a plain loop: the first value counts."""
    model, params = small(name)
    xs, expected = values(50), []
    carry = model.init_carry(params, 1)
    prediction = readout(model, params, carry)
    for x in xs:
        mean, scale = (np.asarray(part[0], np.float64) for part in prediction)
        expected.append(stats.norm.logpdf(np.asarray(x), mean, scale).sum())
        carry, prediction = advance(model, params, carry, x[None])
    np.testing.assert_allclose(scoring.score(model, params, xs), expected, rtol=1e-4, atol=2e-4)
    for num_steps, batch_size in ((7, 1), (3, 4)) if name != "drift" else ((3, 4), (256, 32)):
        scored = scoring.score_stream(model, params, xs, num_steps=num_steps, batch_size=batch_size)
        np.testing.assert_allclose(scored, expected, rtol=1e-4, atol=2e-4)


def test_activation_and_residual_change_what_is_computed():
    variants = [{"activation": name} for name in ("tanh", "relu", "gelu", "silu")] + [{"residual": True}]
    params = small("mlp")[1]
    seen = []
    for variant in variants:
        model = build_series_model(dataclasses.replace(MLP, **variant), D)
        seen.append(unroll(model, params, model.init_carry(params, B), values(B, T))[1].mean)
    assert all(np.abs(one - other).max() > 1e-3 for one, other in itertools.combinations(seen, 2))


def test_a_residual_layer_by_hand():
    """h_1 = tanh(W_1 x), h_2 = tanh(W_2 h_1) + h_1: the first layer has nothing to add its input to."""
    model = build_series_model(dataclasses.replace(MLP, residual=True), D)
    params = small("mlp")[1]
    window = values(B, 3)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    first = np.tanh(np.asarray(window).reshape(B, -1) @ p["kernel_0"] + p["bias_0"])
    second = np.tanh(first @ p["kernel_1"] + p["bias_1"]) + first
    expected = second @ p["value_head"]["mean_kernel"] + p["value_head"]["mean_bias"]
    assert_close(readout(model, params, window).mean, expected)


def test_baselines_in_a_line_each():
    xs, blank = np.asarray(values(T)), np.zeros((PERIOD - 1, D))

    def after(name):
        model, params = small(name)
        return unroll(model, params, model.init_carry(params, 1), jnp.asarray(xs)[None])[1].mean[0]

    slope = (xs[1:] - xs[0]) / np.arange(1, T)[:, None]
    np.testing.assert_array_equal(after("mean"), np.zeros((T, D)))
    np.testing.assert_array_equal(after("persistence"), xs)
    np.testing.assert_array_equal(after("seasonal"), np.vstack([blank, xs])[:T])
    np.testing.assert_allclose(after("drift"), np.vstack([xs[:1], xs[1:] + slope]), rtol=1e-5, atol=1e-6)


def test_a_seasonal_forecast_needs_a_period():
    with pytest.raises(ValueError, match="--period"):
        build_series_model(SeriesModelConfig(model="seasonal"), D)


# Least squares


def series(length: int = 400) -> np.ndarray:
    rng, x = np.random.default_rng(3), np.zeros((length, D))
    for t in range(2, length):
        x[t] = 0.3 + 0.5 * x[t - 1, ::-1] - 0.3 * x[t - 2] + rng.normal(size=D) * [1.0, 0.2]
    return x


def by_hand(x: np.ndarray, tau: int, horizon: int = 1):
    """Windows by a loop, with a column of ones, and the `horizon` values that follow each, (W, K, D)."""
    rows = range(len(x) - tau - horizon + 1)
    design = np.array([np.append(x[i : i + tau].reshape(-1), 1.0) for i in rows])
    return design, np.array([x[i + tau : i + tau + horizon] for i in rows])


@pytest.mark.parametrize(("tau", "horizon"), [(1, 1), (3, 1), (2, 3)])
def test_least_squares_by_hand(tau, horizon):
    """Each of the steps ahead has weights of its own."""
    x = series()
    params = fit_least_squares(x, tau, "point", horizon)
    design, labels = by_hand(x, tau, horizon)
    found = np.vstack([params["value_head"]["mean_kernel"], params["value_head"]["mean_bias"]])
    model = build_series_model(SeriesModelConfig(model="linear", tau=tau), D, num_direct=max(2, horizon))
    for k in range(horizon):
        weights = np.linalg.lstsq(design, labels[:, k])[0]
        np.testing.assert_allclose(found[:, k * D : (k + 1) * D], weights, atol=1e-6)
        if horizon > 1:
            windows = jnp.asarray(design[:, :-1].reshape(-1, tau, D), jnp.float32)
            direct = model.readout_direct(params, windows).mean
            np.testing.assert_allclose(direct[:, k], design @ weights, atol=2e-5)


def test_least_squares_predicts_what_follows_each_window():
    x = series()
    model, params = small("linear")[0], fit_least_squares(x, 3, "point")
    design, labels = by_hand(x, 3)
    stream = jnp.asarray(x, jnp.float32)[None]
    found = unroll(model, params, model.init_carry(params, 1), stream)[1].mean[0, 2:-1]
    np.testing.assert_allclose(found, design @ np.linalg.lstsq(design, labels[:, 0])[0], atol=2e-5)


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
    params, model = fit_least_squares(x, 3, "normal"), small("linear, normal")[0]
    design, labels = by_hand(x, 3)
    residuals = labels[:, 0] - design @ np.linalg.lstsq(design, labels[:, 0])[0]
    windows = jnp.asarray(design[:, :-1].reshape(-1, 3, D), jnp.float32)
    targets = jnp.asarray(labels[:, 0], jnp.float32)

    @jax.jit
    def log_density(params):
        return contract.log_prob(model.readout(params, windows), targets).mean()

    scale = readout(model, params, windows).scale
    np.testing.assert_allclose(scale, np.tile(residuals.std(axis=0), (len(design), 1)), rtol=1e-4)
    best = log_density(params)
    assert best == pytest.approx(
        stats.norm.logpdf(residuals, 0, residuals.std(axis=0)).sum(1).mean(), rel=1e-5
    )
    assert not np.asarray(params["value_head"]["scale_kernel"]).any()  # one scale for all inputs: of these
    for name, leaf in params["value_head"].items():
        if name == "scale_kernel":
            continue
        for at, change in itertools.product(np.ndindex(leaf.shape), (0.05, -0.05)):
            moved = {**params["value_head"], name: leaf.at[at].add(change)}
            assert log_density({"value_head": moved}) < best, (name, at)


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e5])
def test_the_scale_of_least_squares_in_any_units(unit):
    x = unit * series()
    params, model = fit_least_squares(x, 3, "normal"), small("linear, normal")[0]
    design, labels = by_hand(x, 3)
    residuals = labels[:, 0] - design @ np.linalg.lstsq(design, labels[:, 0])[0]
    scale = readout(model, params, jnp.asarray(x[None, :3], jnp.float32)).scale[0]
    np.testing.assert_allclose(scale, residuals.std(axis=0), rtol=1e-3)


def test_too_few_windows_are_refused():
    with pytest.raises(ValueError, match="at least 9 windows to fit as many weights, got 4"):
        fit_least_squares(series(8), 4, "point")
    with pytest.raises(ValueError, match="longer series"):
        fit_least_squares(series(4), 4, "point")
    assert fit_least_squares(series(13), 4, "point")  # nine windows

"""What is read beside the values: where it stands, who reads it, and what it is worth."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import contract, panels, rollout
from lmseq.config.series import SeriesModelConfig
from lmseq.contract import log_prob
from lmseq.data import covariates as beside
from lmseq.data.covariates import Beside
from lmseq.data.prepared import Prepared, SeriesSplit
from lmseq.data.scaling import Scaler
from lmseq.data.series_types import Series
from lmseq.models import direct_map as maps
from lmseq.models.build import build_series_model
from lmseq.models.linear import fit_map
from lmseq.models.normalised import statistics
from lmseq.panels import Origins
from lmseq.predictions import point
from lmseq.training import objectives
from lmseq.training.gradient import StepInfo
from lmseq.types import Batch, Covariates
from tests.test_series_models import D, assert_close, drawn, figures

SIZES = Covariates(known=2, past=1, static=1)
C, K = SIZES.total, 3
SMALL = SeriesModelConfig(tau=3, hidden_size=4)
MODELS = {
    "mlp": SMALL,
    "mlp, skip, scaled": dataclasses.replace(SMALL, skip=True, normalisation="scale"),
    "linear": dataclasses.replace(SMALL, model="linear", fit="gradient"),
    "gru": dataclasses.replace(SMALL, model="gru", head="normal"),
    "minlstm, skip": dataclasses.replace(SMALL, model="minlstm", skip=True),
    "lstm, instance": dataclasses.replace(SMALL, model="lstm", normalisation="instance"),
    "gru, members": dataclasses.replace(SMALL, model="gru", ensemble=2),
    "mlp, counts": dataclasses.replace(SMALL, head="counts"),
}
every_model = pytest.mark.parametrize("name", MODELS)
some_models = pytest.mark.parametrize("name", ["mlp, skip, scaled", "linear", "gru", "gru, members"])
few = settings(max_examples=10)


@cache
def model_of(name: str, num_direct: int = 1):
    model = build_series_model(MODELS[name], D, num_direct=num_direct, covariates=SIZES)
    return model, drawn(jax.eval_shape(model.init, jax.random.key(0)), len(name))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@partial(jax.jit, static_argnums=0)
def carry_of(model, params, xs):
    return model.unroll(params, model.init_carry(params, len(xs)), xs)[0]


@partial(jax.jit, static_argnums=0)
def readout(model, params, carry):
    return model.readout(params, carry)


@partial(jax.jit, static_argnums=0)
def direct(model, params, carry, known):
    return model.readout_direct(params, carry, known)


@partial(jax.jit, static_argnums=0)
def update(model, params, carry, x):
    return model.update(params, carry, x)


@every_model
def test_the_contract_with_covariates(name):
    model, params = model_of(name)
    assert model.covariates == SIZES
    found, expected = figures(
        model, params, model.init_carry(params, 3), normal(3, 9, D + C), normal(3, 9, D + C, seed=1)
    )
    for part, value in expected.items():
        assert_close(found[part], value, 2e-4)


@some_models
def test_a_step_is_predicted_from_what_is_known_up_to_it(name):
    """And one step ahead that is what stands behind the newest value."""
    model, params = model_of(name, K)
    xs, known = normal(2, 6, D + C), normal(2, K, SIZES.known, seed=1)
    known = known.at[:, 0].set(xs[:, -1, D : D + SIZES.known])
    carry = carry_of(model, params, xs)
    whole = point(direct(model, params, carry, known))
    assert_close(point(readout(model, params, carry)), whole[:, 0])
    for step in range(1, K):
        seen = point(direct(model, params, carry, known[:, :step]))
        assert_close(seen[:, :step], whole[:, :step])
        other = point(direct(model, params, carry, known.at[:, step].add(1.0)))
        assert_close(other[:, :step], whole[:, :step])
        assert np.abs(np.asarray(other - whole))[:, step:].max() > 1e-3


@some_models
@pytest.mark.parametrize("num_direct", [1, K])
def test_a_rollout_is_the_loop_that_feeds_forecasts_back(name, num_direct):
    model, params = model_of(name, num_direct)
    horizon, xs = 7, normal(2, 6, D + C)
    ahead = normal(2, horizon, C, seed=1).at[:, 0].set(xs[:, -1, D:])
    carry, expected = carry_of(model, params, xs), []
    while len(expected) < horizon:
        first = len(expected)
        if num_direct == 1:
            values = point(readout(model, params, carry))[:, None]
        else:
            rows = ahead[:, first : first + num_direct, : SIZES.known]
            values = point(direct(model, params, carry, rows))
        for step in range(min(num_direct, horizon - first)):
            expected.append(values[:, step])
            if len(expected) < horizon:
                carry = model.update(
                    params, carry, jnp.concatenate([values[:, step], ahead[:, len(expected)]], 1)
                )
    whole = jax.jit(rollout.rollout, static_argnums=(0, 3))
    found = whole(model, params, carry_of(model, params, xs), horizon, ahead)
    np.testing.assert_allclose(found, jnp.stack(expected, 1), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["mlp", "gru"])
@pytest.mark.parametrize("objective", ["direct", "unrolled", "scheduled_sampling"])
def test_objectives_with_covariates(name, objective):
    """Against the losses of each origin, one by one; sampling that has not begun is teacher forcing."""
    model, params = model_of(name, K if objective == "direct" else 1)
    tau, origins, batch_size = 3, 2, 2
    xs = normal(batch_size, tau + origins + K - 1, D + C, seed=3)
    batch = Batch(xs[:, :-1], xs[:, 1:], jnp.ones((batch_size, xs.shape[1] - 1), bool))
    step = StepInfo(jnp.int32(0), jax.random.key(0), jnp.array(True))
    carry, expected = model.init_carry(params, batch_size), 0.0
    if objective == "scheduled_sampling":
        sizes = {"tau": tau, "rate": 1.0, "num_train_steps": 10}
        found = objectives.scheduled_sampling(model, params, carry, batch, step, **sizes)
        forced = objectives.teacher_forcing(model, params, carry, batch, step, tau=tau)
        assert float(found.minimised.nll) == pytest.approx(float(forced.minimised.nll), rel=1e-4)
        return
    found = getattr(objectives, objective)(model, params, carry, batch, step, tau=tau, num_ahead=K)
    for origin in range(tau, tau + origins):
        carry = carry_of(model, params, xs[:, :origin])
        targets = xs[:, origin : origin + K, :D]
        if objective == "direct":
            known = xs[:, origin - 1 : origin + K - 1, D : D + SIZES.known]
            expected -= float(log_prob(direct(model, params, carry, known), targets).sum())
            continue
        for ahead in range(K):
            prediction = readout(model, params, carry)
            expected -= float(log_prob(prediction, targets[:, ahead]).sum())
            row = jnp.concatenate([point(prediction), xs[:, origin + ahead, D:]], 1)
            carry = update(model, params, carry, row)
    assert found.minimised.count == batch_size * origins * K
    assert float(found.minimised.nll) == pytest.approx(expected, rel=1e-4)


# Maps in closed form


def panel_of(seed: int, lengths: list[int], sizes: Covariates, width: int = 1) -> list[np.ndarray]:
    """Inputs of some series (T_n, D + C): random walks, and covariates beside them."""
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([rng.normal(size=(n, width)).cumsum(axis=0), rng.normal(size=(n, sizes.total))], 1)
        for n in lengths
    ]


@few
@given(
    seed=st.integers(0, 99),
    tau=st.integers(1, 4),
    horizon=st.integers(1, 4),
    kind=st.sampled_from(["none", "last", "scale"]),
    sizes=st.sampled_from([Covariates(known=1), SIZES, Covariates(past=2), Covariates(known=2, static=1)]),
)
def test_the_map_is_that_of_least_squares_with_the_same_columns(seed, tau, horizon, kind, sizes):
    """Each step ahead has columns of its own: the window, and what is known of the steps 2 ... k."""
    width = 2
    series = panel_of(seed, [90, 70], sizes, width)
    whole = [
        Prepared(
            Series("walk", ("x", "y"), each[:, :width]),
            SeriesSplit(len(each), len(each)),
            Scaler(np.zeros(width), np.ones(width)),
            each[:, :width].astype(np.float32),
            Beside(*map(np.float32, _unshifted(each[:, width:], sizes))),
        )
        for each in series
    ]
    head = fit_map(whole, tau, horizon, kind)["value_head"]
    for step in range(1, horizon + 1):
        rows, targets = [], []
        for each in (np.asarray(member.inputs, np.float64) for member in whole):
            for origin in range(tau, len(each) - horizon + 1):
                window = each[origin - tau : origin]
                found = statistics(window[:, :width], kind)
                values = found.apply(window[:, :width])
                dynamic = window[:, width : width + sizes.known + sizes.past]
                seen = [*np.concatenate([values, dynamic], axis=1).ravel()]
                seen += [*window[-1, width + sizes.known + sizes.past :]]
                for ahead in range(2, step + 1):  # x_{t+k-1} has what is known of step k
                    seen += [*each[origin + ahead - 2, width : width + sizes.known]]
                rows.append([*seen, 1.0])
                targets.append(found.apply(each[origin + step - 1 : origin + step, :width])[0])
        weights = np.linalg.lstsq(np.array(rows), np.array(targets))[0]
        chosen = slice((step - 1) * width, step * width)
        num_window = len(head["mean_kernel"])
        np.testing.assert_allclose(head["mean_kernel"][:, chosen], weights[:num_window], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(head["mean_bias"][chosen], weights[-1], rtol=2e-4, atol=2e-4)
        if sizes.known:
            known = np.asarray(head["known_kernel"])[:, chosen]
            first, last = sizes.known, sizes.known * step
            np.testing.assert_allclose(known[first:last], weights[num_window:-1], rtol=2e-4, atol=2e-4)
            assert not known[:first].any() and not known[last:].any(), "nothing is read twice or too early"


def _unshifted(columns: np.ndarray, sizes: Covariates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariates whose columns, as a model reads them, are these: known ones come one step later."""
    known, past, static = np.split(columns, np.cumsum(sizes)[:2], axis=1)
    return np.concatenate([known[:1], known]), past, static[0]


def test_a_map_with_collinear_covariates_is_the_same_on_what_can_be_told():
    """A column twice, and one of zeros: forecasts are those without them, with and without a ridge."""
    rng = np.random.default_rng(5)
    values, known = rng.normal(size=(200, 1)), rng.normal(size=(201, 1))
    series, split = Series("x", ("x",), values), SeriesSplit(150, 200)
    scaler, places = Scaler(np.zeros(1), np.ones(1)), np.arange(10, 190)
    found = {}
    for name, columns in {"one": known, "more": np.concatenate([known, known, 0 * known], axis=1)}.items():
        rest = Beside(columns.astype(np.float32), np.zeros((200, 0), np.float32), np.zeros(0, np.float32))
        member = Prepared(series, split, scaler, values.astype(np.float32), rest)
        model = build_series_model(
            SeriesModelConfig(model="linear", tau=3), 1, num_direct=4, covariates=member.covariates
        )
        params = fit_map([member], 3, 4, "none")
        windows = rollout.last_windows(member.inputs, places, 3)
        found[name] = model.host_points(params, windows, 4, member.ahead(places, 4))
    np.testing.assert_allclose(found["more"], found["one"], atol=1e-4)


@pytest.mark.parametrize("num_direct", [1, K])
def test_forecasts_in_numpy_are_those_of_the_contract(num_direct):
    config = SeriesModelConfig(model="linear", tau=3, normalisation="mean")
    model = build_series_model(config, D, num_direct=num_direct, covariates=SIZES)
    params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    # A map in closed form reads of each step what is known up to it.
    causal = np.kron(np.triu(np.ones((num_direct,) * 2)), np.ones((SIZES.known, D)))
    params["value_head"]["known_kernel"] *= causal.astype(np.float32)
    windows, ahead = normal(5, 3, D + C), normal(5, 7, C, seed=1)
    ahead = ahead.at[:, 0].set(windows[:, -1, D:])
    found = model.host_points(params, np.asarray(windows), 7, np.asarray(ahead))
    expected = rollout.rollout(model, params, windows, 7, ahead)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_penalty_of_a_map_with_covariates_is_the_best_on_the_validation_part():
    rng = np.random.default_rng(2)
    values, known = rng.normal(size=(80, 1)).astype(np.float32), rng.normal(size=(81, 3)).astype(np.float32)
    rest = Beside(known, np.zeros((80, 0), np.float32), np.zeros(0, np.float32))
    member = Prepared(
        Series("x", ("x",), values.astype(float)),
        SeriesSplit(50, 70),
        Scaler(np.zeros(1), np.ones(1)),
        values,
        rest,
    )
    other = member._replace(split=SeriesSplit(20, 20))
    [(inputs, targets)] = maps.pieces([member.inputs[46:70].astype(float)], 4, 3, "none", member.covariates)

    def error(ridge: float) -> float:
        head = fit_map([member], 4, 3, "none", ridge)["value_head"]
        kernel = np.concatenate([head["mean_kernel"], np.asarray(head["known_kernel"])[3:]])
        return float(((inputs @ kernel + np.asarray(head["mean_bias"]) - targets) ** 2).sum())

    chosen = fit_map([member], 4, 3, "none", -1.0)["value_head"]
    expected = fit_map([member], 4, 3, "none", min(maps.PENALTIES, key=error))["value_head"]
    jax.tree.map(np.testing.assert_array_equal, chosen, expected)
    with pytest.raises(ValueError, match="at least one window"):
        fit_map([other], 4, 3, "none", -1.0)


# What they are worth


PHI, NOISE, EFFECT = 0.7, 0.5, 2.0


def promoted(num_points: int, seed: int = 0, later: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """y_t = 2 promo_t + u_t with u an AR(1) process; promotions are known for some more steps."""
    rng = np.random.default_rng(seed)
    promo = (rng.random(num_points + later) < 0.3).astype(float)
    u, noise = np.zeros(num_points), rng.normal(size=num_points)
    for t in range(1, num_points):
        u[t] = PHI * u[t - 1] + NOISE * noise[t]
    return EFFECT * promo[:num_points] + u, promo


@pytest.mark.parametrize("num_direct", [1, 6])
def test_a_forecast_with_the_covariate_is_as_good_as_that_of_the_rest_alone(num_direct):
    """RMSE k steps ahead of an AR(1) process: sigma sqrt((1 - phi^2k) / (1 - phi^2)), in closed form."""
    y, promo = promoted(12_000)
    split, horizon = SeriesSplit(8_000, 8_000), 6
    origins = [Origins(8_000, 12_000 - 8_000 - horizon + 1)]
    targets = panels.values_ahead(y[:, None], origins[0], horizon)
    rmse = {}
    for name in ("with", "without"):
        series = Series("sales", ("sales",), y[:, None])
        member = Prepared(series, split, Scaler(np.zeros(1), np.ones(1)), series.values.astype(np.float32))
        if name == "with":
            columns = series._replace(known=promo[:, None], known_names=("promo",))
            member = member._replace(beside=beside.in_units(columns, beside.fit_units([columns], [8_000])))
        config = SeriesModelConfig(model="linear", tau=2)
        model = build_series_model(config, 1, num_direct=num_direct, covariates=member.covariates)
        params = fit_map([member], 2, num_direct, "none")
        ahead = member.ahead(origins[0].places(), horizon)
        rows = None if ahead is None else [ahead]
        [points] = panels.panel_points(model, params, [member.inputs], origins, rows, max_horizon=horizon)
        rmse[name] = np.sqrt(((points - targets) ** 2).mean(axis=(0, 2)))
    k = np.arange(1, horizon + 1)
    least = NOISE * np.sqrt((1 - PHI ** (2 * k)) / (1 - PHI**2))
    np.testing.assert_allclose(rmse["with"], least, rtol=0.05)
    assert (rmse["without"] ** 2 > least**2 + 0.8 * EFFECT**2 * 0.3 * 0.7).all()


def test_what_was_known_only_so_far_is_not_read_ahead_of_its_time():
    """Other past covariates after an origin change no forecast from it, one step ahead or more."""
    rng = np.random.default_rng(1)
    values, past = rng.normal(size=(40, D)).astype(np.float32), rng.normal(size=(40, 1)).astype(np.float32)
    nothing, static = np.zeros((40, 0), np.float32), np.zeros(0, np.float32)
    config = dataclasses.replace(SMALL, model="gru")
    model = build_series_model(config, D, num_direct=2, covariates=Covariates(past=1))
    params, found = drawn(jax.eval_shape(model.init, jax.random.key(0))), []
    for later in (past, np.where(np.arange(40)[:, None] >= 20, 9.0, past).astype(np.float32)):
        rest = Beside(nothing, later, static)
        inputs = np.concatenate([values, rest.rows()], axis=1)
        origins = Origins(18, 3)
        ahead = [rest.ahead(origins.places(), 5)]
        found.append(panels.panel_points(model, params, [inputs], [origins], ahead, max_horizon=5)[0])
    np.testing.assert_array_equal(*found)
    assert contract.covariates_of(model).past == 1

"""Quantiles around forecasts, what they are judged by, and forecasts of processes that are known."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.series import evaluate, future, spread
from experiments.series.refitting import Stretch
from lmseq import panels
from lmseq.config.knobs import from_flat
from lmseq.config.series import SeriesConfig, SeriesModelConfig, check
from lmseq.contract import log_prob
from lmseq.data.panel import Panel
from lmseq.data.prepared import Prepared, PreparedPanel, SeriesSplit
from lmseq.data.scaling import Scaler
from lmseq.data.series_types import Series
from lmseq.models.build import build_series_model
from lmseq.models.linear import fit_map, linear_params
from lmseq.panels import Origins
from tests.test_series_models import D, small

LEVELS = spread.LEVELS


def prepared(values: np.ndarray, train_end: int, test_start: int, log: bool = False) -> Prepared:
    width = values.shape[1]
    scaler = Scaler(np.full(width, 0.5), np.full(width, 2.0), log)
    series = Series("walk", tuple(f"x{d}" for d in range(width)), values)
    return Prepared(series, SeriesSplit(train_end, test_start), scaler, scaler.apply(values))


def panel_of(*members: Prepared) -> PreparedPanel:
    return PreparedPanel(Panel("walk", tuple(each.series for each in members)), members)


# Against what came


def test_coverage_and_pinball_loss_are_those_of_plain_loops():
    rng = np.random.default_rng(0)
    members, found, origins, units = [], [], [], []
    for count in (5, 3):
        values = rng.normal(size=(30, D))
        filled = rng.random((30, D)) < 0.2
        member = prepared(values, 10, 20)
        members.append(member._replace(series=member.series._replace(filled=filled)))
        origins.append(Origins(20, count))
        found.append(np.sort(rng.normal(size=(count, len(LEVELS), 4, D)), axis=1))
        units.append(np.array([2.0, 0.5]))
    judged = spread.judge_quantiles(panel_of(*members), origins, iter(found), units)
    for row, (member, each) in enumerate(zip(members, origins, strict=True)):
        for k in range(4):
            losses, inside = [], {"coverage_80": [], "coverage_95": []}
            for place in range(each.count):
                for d in range(D):
                    at = 20 + place + k
                    if member.series.filled[at, d]:
                        continue
                    y, q = member.series.values[at, d], found[row][place, :, k, d]
                    inside["coverage_80"].append(q[LEVELS.index(0.1)] <= y <= q[LEVELS.index(0.9)])
                    inside["coverage_95"].append(q[LEVELS.index(0.025)] <= y <= q[LEVELS.index(0.975)])
                    each_level = [
                        level * (y - value) if y > value else (1 - level) * (value - y)
                        for level, value in zip(LEVELS, q, strict=True)
                    ]
                    losses.append(np.mean(each_level) / units[row][d])
            assert judged.pinball[row, k] == pytest.approx(np.mean(losses))
            for name, shares in inside.items():
                assert getattr(judged, name)[row, k] == pytest.approx(np.mean(shares))
    means = judged.means()
    assert means["pinball"] == pytest.approx(judged.pinball.mean())
    assert spread.describe(means, "own", "validation").startswith("quantiles (the head's own): ")
    assert "of errors of the training part, too narrow" in spread.describe(means, "conformal", "training")


@pytest.mark.parametrize(
    ("head", "objective", "horizon", "kind"),
    [
        ("point", "direct", 4, "conformal"),
        ("median", "direct", 4, "conformal"),
        ("normal", "direct", 8, "own"),
        ("normal", "direct", 9, "conformal"),
        ("quantiles", "teacher_forcing", 1, "own"),
        ("student", "teacher_forcing", 2, "conformal"),
    ],
)
def test_whose_quantiles_they_are(head, objective, horizon, kind):
    config = check(from_flat({"head": head, "objective": objective}, SeriesConfig))
    assert spread.kind_of(config, horizon) == kind


def test_conformal_quantiles_are_errors_in_the_units_of_the_model():
    """Of logarithms they are factors."""
    values = np.exp(np.random.default_rng(1).normal(size=(20, 1)))
    panel = panel_of(prepared(values, 10, 15, log=True))
    config = check(from_flat({}, SeriesConfig))
    intervals = spread.Intervals(LEVELS, np.arange(14.0).reshape(7, 2) - 6, 9, "validation")
    points = np.array([[[0.3], [0.7], [0.1]]])
    [found] = spread.quantiles_of(config, panel, None, [Stretch({}, [Origins(15, 1)])], intervals, [points])
    unit = np.abs(np.diff(np.log(values[:15, 0]))).mean() / 2.0
    for level in range(7):
        for k in range(3):
            score = intervals.quantiles[level, min(k, 1)] * unit
            expected = np.exp((points[0, k, 0] + score) * 2.0 + 0.5)
            assert found[0, level, k, 0] == pytest.approx(expected, rel=1e-5)


# Processes that are known

PHI, SIGMA, K = 0.7, 0.5, 4


def autoregression(num_points: int, weights=(PHI,), noise: float = SIGMA, seed: int = 0) -> np.ndarray:
    """x_t = sum_i w_i x_{t-i} + noise e_t, from a random beginning, (T, 1)."""
    rng, order = np.random.default_rng(seed), len(weights)
    x, e = rng.normal(size=num_points), rng.normal(size=num_points)
    for t in range(order, num_points):
        x[t] = np.dot(weights, x[t - order : t][::-1]) + noise * e[t]
    return x[:, None]


def test_quantiles_of_a_known_process_cover_as_much_as_they_say():
    """y_{t+k} is normal about phi^k y_t with variance sigma^2 (1 - phi^2k) / (1 - phi^2).

    Origins lie so far apart that what comes after each is independent of the rest but for 0.7^16: counts are
    binomial, and each of the 28 of them lies in an interval that it misses once in 10^5 times.
    """
    values = autoregression(60_000)
    series = Series("ar", ("x",), values)
    scaler = Scaler(np.zeros(1), np.ones(1))
    panel = panel_of(Prepared(series, SeriesSplit(100, 100), scaler, values.astype(np.float32)))
    origins = [Origins(100, 2_900, 20)]
    steps = np.arange(1, K + 1)
    scale = SIGMA * np.sqrt((1 - PHI ** (2 * steps)) / (1 - PHI**2))
    model = build_series_model(SeriesModelConfig(model="linear", tau=1, head="normal"), 1, num_direct=K)
    params = linear_params(PHI ** steps[None], np.zeros(K), scale)
    config = check(
        from_flat(
            {"model": "linear", "tau": 1, "head": "normal", "objective": "direct", "num_ahead": K},
            SeriesConfig,
        )
    )
    points = panels.panel_points(model, params, *panels.read_from(panel, origins, K), max_horizon=K)
    unused = spread.Intervals(LEVELS, np.zeros((len(LEVELS), K)), 0, "validation")
    [found] = spread.quantiles_of(config, panel, model, [Stretch(params, origins)], unused, points)
    targets = panels.values_ahead(values, origins[0], K)
    for place, level in enumerate(LEVELS):
        low, high = stats.binom.interval(1 - 1e-5, 2_900, level)
        below = (targets[..., 0] <= found[:, place, :, 0]).sum(axis=0)
        assert (low <= below).all() and (below <= high).all(), level
    judged = spread.judge_quantiles(panel, origins, iter([found]), [np.ones(1)])
    for name, share in (("coverage_80", 0.8), ("coverage_95", 0.95)):
        low, high = stats.binom.interval(1 - 1e-5, 2_900, share)
        counts = 2_900 * getattr(judged, name)[0]
        assert (low <= counts).all() and (counts <= high).all()
    # The loss of a normal distribution's own quantile at level q is sigma times the density at z_q.
    density = stats.norm.pdf(stats.norm.ppf(LEVELS)).mean()
    np.testing.assert_allclose(judged.pinball[0], scale * density, rtol=0.06)


def test_conformal_quantiles_of_a_fitted_process_cover_as_much_as_they_say():
    """From 6,000 errors of a validation part, one step ahead, where errors are independent."""
    values = autoregression(20_000, seed=2)
    series, scaler = Series("ar", ("x",), values), Scaler(np.zeros(1), np.ones(1))
    panel = panel_of(Prepared(series, SeriesSplit(8_000, 14_000), scaler, values.astype(np.float32)))
    config = check(from_flat({"model": "linear", "tau": 1}, SeriesConfig))
    model = build_series_model(config.model, 1)
    params = fit_map(panel.members, 1, 1, "none")
    intervals = spread.calibrate(panel, model, params, 1)
    assert (intervals.num_scores, intervals.part) == (6_000, "validation")
    origins = [Origins(14_000, 6_000)]
    points = panels.panel_points(model, params, *panels.read_from(panel, origins, 1), max_horizon=1)
    around = spread.quantiles_of(config, panel, model, [Stretch(params, origins)], intervals, points)
    judged = spread.judge_quantiles(panel, origins, around, [np.ones(1)])
    for name, share in (("coverage_80", 0.8), ("coverage_95", 0.95)):
        # Twice the variance: the quantiles are estimated from as many errors.
        room = 4.5 * np.sqrt(2 * share * (1 - share) / 6_000)
        assert abs(getattr(judged, name)[0, 0] - share) < room


@pytest.mark.parametrize("weights", [(0.9,), (0.5, -0.3), (0.6, -0.3, 0.2)])
def test_the_direct_map_of_an_autoregression_is_the_power_of_its_companion_matrix(weights):
    """Without noise, from many beginnings, it is exact: the k-th column is the first row of F^k."""
    order, horizon = len(weights), 5
    parts = [autoregression(order + horizon + 2, weights, 0.0, seed) for seed in range(40)]
    members = [prepared(part, len(part), len(part)) for part in parts]
    members = [
        each._replace(values=part.astype(np.float32)) for each, part in zip(members, parts, strict=True)
    ]
    companion = np.zeros((order, order))
    companion[0], companion[1:, :-1] = weights, np.eye(order - 1)
    head = fit_map(members, order, horizon, "none")["value_head"]
    power = np.eye(order)
    for k in range(horizon):
        power = power @ companion
        np.testing.assert_allclose(head["mean_kernel"][::-1, k], power[0], atol=1e-5)
    np.testing.assert_allclose(head["mean_bias"], 0.0, atol=1e-5)
    # So direct and recursive forecasts are the same.
    found = {}
    for num_direct in (1, horizon):
        model = build_series_model(SeriesModelConfig(model="linear", tau=order), 1, num_direct=num_direct)
        params = fit_map(members, order, num_direct, "none")
        origins = [Origins(order, 2) for _ in members]
        inputs = [each.inputs for each in members]
        found[num_direct] = panels.panel_points(model, params, inputs, origins, max_horizon=horizon)
    for one, other, part in zip(found[1], found[horizon], parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_allclose(one[0], part[order : order + horizon], atol=1e-5)


def test_the_direct_map_of_a_long_noisy_series_comes_near_these_powers():
    """The limit: errors shrink as one over the root of the length."""
    weights, horizon = (0.5, -0.3), 3
    errors = []
    for length in (2_000, 200_000):
        part = autoregression(length, weights, 1.0, seed=5)
        member = prepared(part, length, length)._replace(values=part.astype(np.float32))
        head = fit_map([member], 2, horizon, "none")["value_head"]
        companion = np.array([weights, (1.0, 0.0)])
        expected = np.stack([np.linalg.matrix_power(companion, k)[0] for k in range(1, horizon + 1)], axis=1)
        errors.append(np.abs(np.asarray(head["mean_kernel"])[::-1] - expected).max())
    assert errors[1] < 0.01 and errors[1] < errors[0]


# What chooses the checkpoint, and what is written


def test_the_loss_that_chooses_is_that_of_the_direct_objective():
    """From every origin of the validation part that has as many values after it as the head predicts."""
    model, params = small("gru, normal", 3)
    values = np.random.default_rng(4).normal(size=(40, D)).cumsum(axis=0)
    for first, last in ((24, 30), (24, 26)):
        member = prepared(values, first, last)
        found = evaluate.evaluate(panel_of(member), model, 3, params, 0)["valid_loss"]
        reach, losses = min(3, last - first), []
        for origin in range(first, last - reach + 1):
            seen = jnp.asarray(member.values[None, :origin])
            carry = model.unroll(params, model.init_carry(params, 1), seen)[0]
            ahead = model.readout_direct(params, carry)
            for k in range(reach):
                step = type(ahead)(*(leaf[:, k] for leaf in ahead))
                losses.append(-float(log_prob(step, jnp.asarray(member.values[None, origin + k]))[0]))
        assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_summaries_and_tables_say_how_good_the_quantiles_are(tmp_path, scripts):
    values = 10 + autoregression(600, seed=7)
    np.savetxt(tmp_path / "ar.csv", np.repeat(values, 2, 1), header="a,b", comments="", delimiter=",")
    base = ["--model=linear", "--tau=2", "--objective=direct", "--num_ahead=4", "--max_horizon=4"]
    base += [f"--series={tmp_path / 'ar.csv'}", "--valid_fraction=0.2", "--test_fraction=0.3"]
    for head, kind in (("point", "conformal"), ("normal", "own")):
        run = tmp_path / head
        summary = scripts.summary(
            "predict_series", *base, f"--head={head}", f"--workdir={run}", "--columns=a"
        )
        assert summary["quantiles"] == kind
        assert 0.7 < summary["coverage_80"] < 0.9 < summary["coverage_95"] <= 1
        assert (
            0.7 < summary["coverage_80_at_4"] < 0.9 and summary["pinball_loss_at_1"] < summary["pinball_loss"]
        )
        ahead = tmp_path / f"{head}_next"
        found = scripts.summary("forecast", f"--run={run}", f"--workdir={ahead}", "--horizon=4")
        assert found["quantiles"] == kind
        beyond = scripts.summary("forecast", f"--run={run}", f"--workdir={ahead}_far", "--horizon=5")
        assert beyond["quantiles"] == "conformal"
    rows = np.genfromtxt(tmp_path / "normal_next" / "forecast.csv", delimiter=",", names=True)
    z = stats.norm.ppf([0.05, 0.1, 0.9, 0.95])
    spreads = np.stack([rows[name] - rows["mean"] for name in ("q005", "q01", "q09", "q095")], axis=1)
    scale = spreads[:, -1] / z[-1]
    np.testing.assert_allclose(spreads, scale[:, None] * z, rtol=1e-4, atol=1e-5)
    assert (np.diff(scale) > 0).all(), "what is further away is known less well"
    np.testing.assert_allclose(scale[0], SIGMA, rtol=0.15)
    run = tmp_path / "panel"
    summary = scripts.summary("predict_series", *base, "--channels=independent", f"--workdir={run}")
    assert summary["quantiles"] == "conformal" and 0.7 < summary["coverage_80"] < 0.9
    table = np.genfromtxt(run / "horizons.csv", delimiter=",", names=True)
    assert table["linear_coverage_95"].mean() == pytest.approx(summary["coverage_95"], abs=1e-4)
    assert table["linear_pinball"].mean() == pytest.approx(summary["scaled_pinball_loss"], rel=1e-4)
    assert json.loads((run / "summary.json").read_text())["coverage_95"] == summary["coverage_95"]
    assert future.SHOWN_LEVELS[0] in LEVELS

"""How forecasts are judged and told, and the table of the objectives, of made-up values and records."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from experiments.series import evaluate, forecasts, objectives_picture, remedies
from lmseq.config.knobs import from_flat
from lmseq.config.series import SeriesConfig
from lmseq.data.panel import Panel
from lmseq.data.scaling import Scaler, fit_scaler
from lmseq.data.series import Prepared, PreparedPanel, SeriesSplit
from lmseq.data.series_types import Series
from lmseq.models.baselines import Persistence
from tests.test_series_models import D, advance, readout, small

T, TRAIN_END, TEST_START = 40, 24, 30


def prepared(scale: float = 1.0, filled: np.ndarray | None = None) -> Prepared:
    values = scale * np.random.default_rng(4).normal(size=(T, D)).cumsum(axis=0)
    columns = tuple(f"x{d}" for d in range(D))
    scaler = fit_scaler(values[:TRAIN_END], columns)
    series = Series("walk", columns, values, filled=filled)
    return Prepared(series, SeriesSplit(TRAIN_END, TEST_START), scaler, scaler.apply(values))


def alone(series: Prepared) -> PreparedPanel:
    return PreparedPanel(Panel("walk", (series.series,)), (series,))


def step_log_probs(series: Prepared, model, params) -> np.ndarray:
    """Of each standardised value in turn, (T,)."""
    carry, found = model.init_carry(params, 1), []
    predicted = readout(model, params, carry)
    for value in jnp.asarray(series.values):
        found.append(norm.logpdf(value, predicted.mean[0], predicted.scale[0]).sum())
        carry, predicted = advance(model, params, carry, value[None])
    return np.array(found)


def test_a_density_is_of_values_in_the_units_of_the_series():
    model, params = small("gru, normal")
    series = prepared()
    expected = step_log_probs(series, model, params)[TEST_START:].mean() - np.log(series.scaler.scale).sum()
    found = evaluate.log_density(series, model, params, TEST_START, T)
    assert found == pytest.approx(expected, abs=1e-4)
    tenfold = evaluate.log_density(prepared(10.0), model, params, TEST_START, T)
    assert tenfold == pytest.approx(found - D * math.log(10), abs=1e-4)


def test_points_that_were_missing_are_left_out_of_the_density():
    model, params = small("gru, normal")
    filled = np.zeros((T, D), bool)
    filled[TEST_START + 2, 0] = filled[TEST_START + 5] = True
    series = prepared(filled=filled)
    of_each = step_log_probs(series, model, params) - np.log(series.scaler.scale).sum()
    kept = np.setdiff1d(np.arange(TEST_START, T), [TEST_START + 2, TEST_START + 5])
    found = evaluate.log_density(series, model, params, TEST_START, T)
    assert found == pytest.approx(of_each[kept].mean(), abs=1e-4)


def test_a_density_of_nothing_is_none():
    model, params = small("gru, normal")
    filled = np.zeros((T, D), bool)
    filled[TEST_START:, 0] = True
    assert evaluate.log_density(prepared(filled=filled), model, params, TEST_START, T) is None


def test_the_validation_part_is_what_lies_between_training_and_test():
    model, params = small("gru, normal")
    series = prepared()
    expected = -step_log_probs(series, model, params)[TRAIN_END:TEST_START].mean()
    found = evaluate.evaluate(alone(series), model, 1, params, 0)
    assert found["valid_loss"] == pytest.approx(expected, abs=1e-4)
    without = series._replace(split=SeriesSplit(TRAIN_END, TRAIN_END))
    assert evaluate.evaluate(alone(without), model, 1, params, 0) == {"valid_loss": None}


@pytest.mark.parametrize(
    "holds, told",
    [
        ([0, 0], "none"),
        ([1, 1, 0, 1], "1 to 2, 4"),
        ([1] * 5, "1 to 5"),
        ([1, 0, 1, 0, 1, 0, 1], "1, 3, 5 ..."),
    ],
)
def test_horizons_are_told_as_stretches(holds, told):
    assert forecasts.horizons(np.array(holds, bool)) == told


def test_a_season_that_was_not_seen_whole_is_no_baseline():
    assert list(forecasts.baselines(D, 12, 13)) == ["mean", "persistence", "seasonal", "drift"]
    for period in (0, 13):
        assert "seasonal" not in forecasts.baselines(D, period, 13)


def test_the_longest_horizon_leaves_origins_for_it():
    config = SeriesConfig()
    assert forecasts.longest_horizon(config, prepared()) == (T - TEST_START) // 2
    few = dataclasses.replace(config, forecast=dataclasses.replace(config.forecast, max_horizon=3))
    assert forecasts.longest_horizon(few, prepared()) == 3


def test_errors_of_unknown_targets_do_not_count():
    assert forecasts.rmse(np.array([1.0, 2.0, 9.0]), np.array([0.0, 0.0, np.nan])) == math.sqrt(2.5)
    assert math.isnan(forecasts.rmse(np.array([1.0]), np.array([np.nan])))
    assert math.isnan(forecasts.rmse(np.array([np.nan, 1.0]), np.array([1.0, 1.0])))


def test_figures_of_a_model_that_is_exact(tmp_path):
    """The test part is constant: persistence errs by nothing, whose ratios and growth are undefined."""
    values = np.array([[0.0], [2.0]] * 12 + [[1.0]] * 16)
    scaler = fit_scaler(values[:TRAIN_END], ("x",))
    filled = np.zeros(values.shape, bool)
    filled[TEST_START + 1 :] = True
    series = Series("$flat", ("$_{x",), values, lyapunov=0.7)
    config = from_flat({"model": "persistence", "max_horizon": 4}, SeriesConfig)
    for each in (series, series._replace(filled=filled)):
        case = Prepared(each, SeriesSplit(TRAIN_END, TEST_START), scaler, scaler.apply(values))
        found = forecasts.forecast(config, alone(case), Persistence(1), {})
        summary = forecasts.summary(found)
        json.dumps(summary, allow_nan=False)
        assert summary["one_step_rmse"] == 0.0 and summary["error_growth_per_step"] is None
        assert summary["relative_to_persistence_at_1"] is None
        assert summary["rmse_at_4"] == (0.0 if each.filled is None else None)
    forecasts.tell(found)
    forecasts.draw(tmp_path, found, jax.random.key(0))


def test_baselines_are_the_same_in_any_units():
    """The mean is that of the training part, not zero, also where values are left as they are."""
    config, [standard, plain] = from_flat({"max_horizon": 3}, SeriesConfig), [prepared(), prepared()]
    scaler = Scaler(np.zeros(D), np.ones(D))
    plain = plain._replace(scaler=scaler, values=scaler.apply(plain.series.values))
    rows = [forecasts.forecast(config, alone(each), Persistence(D), {}) for each in (standard, plain)]
    assert list(rows[0].baseline_rmse) == ["mean", "persistence", "drift"]
    for name, value in rows[0].baseline_rmse.items():
        assert rows[1].baseline_rmse[name] == pytest.approx(value, rel=1e-5)
        np.testing.assert_allclose(rows[1].curves[name].rmse, rows[0].curves[name].rmse, rtol=1e-5)


def records(num_horizons: int) -> list[dict]:
    """Two seeds an objective: RMSE(1) is best with the first objective, RMSE(k) beyond with the last."""
    found = []
    for place, objective in enumerate(remedies.OBJECTIVES):
        rmse = [1.0 + place, *[10.0 - place] * (num_horizons - 1)]
        found += [{"objective": objective, "rmse": [value + seed for value in rmse]} for seed in (0, 1)]
    return found


def test_the_table_of_objectives_marks_the_least(capsys):
    first, last = remedies.OBJECTIVES[0], remedies.OBJECTIVES[-1]
    found = remedies.table(records(20))
    assert (found["least_at_1"], found["least_at_4"], found["least_at_16"]) == (first, last, last)
    assert "least_at_64" not in found, "nothing is known 64 steps ahead"
    half = 12.706205 * 0.5  # t quantile of one degree of freedom, times the standard error of 1 and 2
    assert found[f"{first}_rmse_at_1"] == 1.5
    assert found[f"{first}_rmse_at_1_low"] == pytest.approx(1.5 - half)
    assert found[f"{last}_rmse_at_4_high"] == pytest.approx(6.5 + half)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + len(remedies.OBJECTIVES)
    assert [line.count("*") for line in lines] == [0, 1, *[0] * (len(lines) - 3), 2]


def test_the_table_of_horizons_that_are_unknown():
    """What was null in a record, as JSON has no other word for it, is a figure that is not known."""
    found = [record | {"rmse": [*record["rmse"][:3], None]} for record in records(4)]
    table = remedies.table(found)
    assert table["least_at_1"] == remedies.OBJECTIVES[0] and table["least_at_4"] is None
    assert np.isnan(objectives_picture.panel(found, "").curves[0].y[3])


def test_the_picture_has_a_curve_and_a_band_for_each_objective():
    panel = objectives_picture.panel(records(8), "a title")
    assert [curve.label for curve in panel.curves] == [name.replace("_", " ") for name in remedies.OBJECTIVES]
    assert panel.title == "a title"

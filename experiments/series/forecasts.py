"""A fitted model of a series against what came: curves, table, sentence, pictures, summary."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.frame.console import say
from experiments.series.evaluate import log_density
from experiments.series.refitting import Stretch, points_of, stretches
from experiments.series.spread import (
    Intervals,
    Spread,
    describe,
    judge_quantiles,
    keeping,
    kind_of,
    quantiles_of,
)
from lmseq import errors, plotting, rollout
from lmseq.config import series as series_config
from lmseq.config.series import SeriesConfig
from lmseq.contract import Model, predict_directly
from lmseq.data.prepared import Prepared, PreparedPanel
from lmseq.errors import ErrorCurve
from lmseq.files import finite
from lmseq.models.baselines import Drift, Mean, Persistence, SeasonalNaive
from lmseq.models.interface import count_parameters
from lmseq.panels import Origins
from lmseq.predictions import quantiles
from lmseq.training.checkpoint import digest
from lmseq.types import Params, PRNGKey

HORIZONS = (1, 4, 16, 64)
BAND = (0.05, 0.95)
MOST_ORIGINS, MOST_NUMBERS = 60, 25_000  # whose forecasts a page shows, and how many values these have


class Forecasts(NamedTuple):
    """A fitted model, its forecasts of the test part in the units of the series, and errors of all compared.

    points: (O, K, D) from every origin with K points after it; one_step: (N, D) of every test point; free:
    (N, D) from the split; curves: the errors by horizon of the model and of each baseline; baseline_rmse: of
    the baselines one step ahead, over every test point; oracle: (K,), the least RMSE that can be expected,
    where it is known; log_density: nats a time step of the test part, of a model with a density that is not
    fitted again on the way; spread: how good its quantiles are, (1, K), the loss in the units of the series;
    intervals: errors made before. rows: of some origins spread evenly, the places among all O; around: the
    quantiles of the forecasts from these, (rows, L, K, D), where there are intervals.
    """

    config: SeriesConfig
    series: Prepared
    model: Model
    params: Params
    points: np.ndarray
    one_step: np.ndarray
    free: np.ndarray
    curves: dict[str, ErrorCurve]
    baseline_rmse: dict[str, float]
    oracle: np.ndarray | None
    log_density: float | None
    spread: Spread | None = None
    intervals: Intervals | None = None
    rows: np.ndarray | None = None
    around: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The kind of the model."""
        return self.config.model.model


def forecast(
    config: SeriesConfig,
    panel: PreparedPanel,
    model: Model,
    params: Params,
    intervals: Intervals | None = None,
) -> Forecasts:
    """Forecast the test part from every origin, one step ahead and freely; and so do the baselines.

    panel: of one series. intervals: errors made before, for quantiles; without them none is judged.
    """
    series = panel.only
    values, first = series.values, series.split.test_start
    horizon = longest_horizon(config, series)
    targets = rollout.k_step_targets(series.series.observed(), max_horizon=horizon, first_origin=first)

    level = level_of(series)

    def of_rival(rival: Model, horizon: int) -> np.ndarray:
        points = rollout.k_step_points(rival, {}, values - level, max_horizon=horizon, first_origin=first)
        return series.scaler.undo(np.asarray(points) + level)

    parts, standardised, one_step = _from_everywhere(config, panel, model, params, horizon)
    points = series.scaler.undo(standardised)
    rivals = baselines(values.shape[1], series.series.period, series.split.train_end)
    curves = {config.model.model: errors.error_curve(points, targets)}
    for name, rival in rivals.items():
        curves[name] = errors.error_curve(of_rival(rival, horizon), targets)
    actual = series.series.observed()[first:]
    oracle = series.series.oracle_rmse
    density, rows, around = None, rows_shown(*points.shape), []
    is_density = config.model.head in ("normal", "student", "counts")
    if is_density and config.model.model not in series_config.BASELINES and len(parts) == 1:
        density = log_density(series, model, parts[0].params, first, len(values))
    return Forecasts(
        config,
        series,
        model,
        params,
        points,
        series.scaler.undo(one_step),
        _freely(series, model, parts[0].params),
        curves,
        {name: rmse(of_rival(rival, 1)[:, 0], actual) for name, rival in rivals.items()},
        None if oracle is None else oracle(horizon),
        density,
        None
        if intervals is None
        else _spread(config, panel, model, parts, intervals, standardised, rows, around),
        intervals,
        rows,
        around[0] if around else None,
    )


def rows_shown(num_origins: int, horizon: int, num_features: int) -> np.ndarray:
    """The places of at most MOST_ORIGINS origins, spread evenly, and of fewer where each says much."""
    most = max(2, min(MOST_ORIGINS, MOST_NUMBERS // (horizon * num_features)))
    return np.unique(np.linspace(0, num_origins - 1, min(num_origins, most)).round().astype(int))


def _from_everywhere(
    config: SeriesConfig, panel: PreparedPanel, model: Model, params: Params, horizon: int
) -> tuple[list[Stretch], np.ndarray, np.ndarray]:
    """Stretches of the origins with K values after them, forecasts from these, and of each next value.

    Standardised: (O, K, D), and from all origins (N, D).
    """
    series, first = panel.only, panel.only.split.test_start
    num_points = len(series.values)
    every = stretches(config, panel, model, params, [Origins(first, num_points - first)])
    parts = [part.until([num_points - horizon]) for part in every]
    if len(every) > 1:
        found = (points_of(panel, model, parts, horizon), points_of(panel, model, every, 1))
        return parts, found[0][0], found[1][0][:, 0]

    def points(horizon: int) -> np.ndarray:
        sizes = {"max_horizon": horizon, "first_origin": first}
        ahead = series.ahead_of_all(first, horizon)
        return np.asarray(rollout.k_step_points(model, every[0].params, series.inputs, **sizes, ahead=ahead))

    return parts, points(horizon), points(1)[:, 0]


def _freely(series: Prepared, model: Model, params: Params) -> np.ndarray:
    """The model on its own over the whole test part, (N, D) in the units of the series."""
    first, num_steps = series.split.test_start, series.test_points
    beside = series.ahead(np.array([first]), num_steps)
    found = rollout.free_run(model, params, series.inputs[:first], num_steps=num_steps, ahead=beside)
    return series.scaler.undo(np.asarray(found))


def _spread(
    config: SeriesConfig,
    panel: PreparedPanel,
    model: Model,
    parts: list[Stretch],
    intervals: Intervals,
    points: np.ndarray,
    rows: np.ndarray,
    kept: list[np.ndarray],
) -> Spread:
    """How good the quantiles are; those of the forecasts from some origins, `rows`, are kept."""
    origins = [Origins(panel.only.split.test_start, len(points))]
    around = keeping(quantiles_of(config, panel, model, parts, intervals, [points]), [rows], kept)
    return judge_quantiles(panel, origins, around, [np.ones(panel.num_features)])


def level_of(series: Prepared) -> np.ndarray:
    """What baselines take for zero, (D,): of values that are not standardised, their mean in training."""
    is_plain = (series.scaler.mean == 0).all() and (series.scaler.scale == 1).all()
    return series.values[: series.split.train_end].mean(axis=0) * np.float32(is_plain)


def longest_horizon(config: SeriesConfig, series: Prepared) -> int:
    """At most half of the test part, so that even the furthest horizon is seen from many origins."""
    return min(config.forecast.max_horizon, max(1, (len(series.values) - series.split.test_start) // 2))


def baselines(num_features: int, period: int, num_train: int) -> dict[str, Model]:
    """Those that the series allows: the season needs one that has been seen whole."""
    rivals: dict[str, Model] = {"mean": Mean(num_features), "persistence": Persistence(num_features)}
    if 0 < period < num_train:
        rivals["seasonal"] = SeasonalNaive(num_features, period)
    return rivals | {"drift": Drift(num_features)}


def rmse(points: np.ndarray, targets: np.ndarray) -> float:
    """Root mean square of the difference over all entries whose target is known; NaN where none is."""
    known = ~np.isnan(targets)
    if not known.any():
        return math.nan
    return float(np.sqrt((np.where(known, points - targets, 0.0) ** 2).sum() / known.sum()))


def tell(found: Forecasts) -> None:
    """A table of RMSE(k), and the sentences that it and the quantiles come to."""
    horizon = found.points.shape[1]
    shown = [k for k in HORIZONS if k <= horizon]
    say(
        f"{'RMSE, k steps ahead':<22}" + "".join(f"{k:>10}" for k in shown) + "   better than the mean at k ="
    )
    rows = {f"{name}": curve.rmse for name, curve in found.curves.items()}
    if found.oracle is not None:
        rows["least that is expected"] = found.oracle
    level = found.curves["mean"].rmse
    for name, curve in rows.items():
        told = "".join(f"{curve[k - 1]:>10.4g}" for k in shown)
        say(f"{name:<22}{told}   {horizons(curve < level)}")
    if found.spread is not None:
        for name, label in (("coverage_80", "within central 80 %"), ("coverage_95", "within central 95 %")):
            shares = getattr(found.spread, name)[0]
            say(f"{label:<22}" + "".join(f"{100 * shares[k - 1]:>9.1f}%" for k in shown))
        kind = kind_of(found.config, horizon)
        say(describe(found.spread.means(), kind, found.intervals.part))
    say(sentence(found.name, found.curves[found.name].rmse, level, found.curves["persistence"].rmse))


def horizons(holds: np.ndarray) -> str:
    """Where something holds, of k = 1, 2, ...: such as `1 to 15, 20`, at most three stretches of it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(int)))
    stretches = [
        f"{first + 1}" if last == first + 1 else f"{first + 1} to {last}"
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]
    return ", ".join(stretches[:3]) + (" ..." if len(stretches) > 3 else "") if stretches else "none"


def sentence(name: str, curve: np.ndarray, mean: np.ndarray, persistence: np.ndarray) -> str:
    """Where the model is worth having."""
    over_mean, over_persistence = horizons(curve < mean), horizons(curve < persistence)
    return f"{name} beats the mean at k = {over_mean}, persistence at k = {over_persistence}, of {curve.size}"


def draw(workdir: Path, found: Forecasts, key: PRNGKey) -> None:
    """forecast.png, the series with its forecasts, and error_curve.png, with oracle and baselines."""
    series, first = found.series, found.series.split.test_start
    title = f"{series.series.name}: {found.name}, tau = {found.config.model.tau}"
    figure = plotting.forecast(
        series.series.values,
        first,
        found.one_step,
        found.free,
        found.points,
        _band(found, key),
        HORIZONS,
        title,
        times=series.series.times,
        ylabel=series.series.columns[0],
    )
    plotting.save_figure(figure, workdir / "forecast.png")
    figure = plotting.error_curves(found.curves, found.name, found.oracle, title)
    plotting.save_figure(figure, workdir / "error_curve.png")
    names = "page.html  forecast.png  error_curve.png"
    if series.series.lyapunov is not None:
        figure = plotting.error_growth(found.curves[found.name], series.series.lyapunov, title)
        plotting.save_figure(figure, workdir / "error_growth.png")
        names += "  error_growth.png"
    say(f"{workdir}: {names}  summary.json")


def _band(found: Forecasts, key: PRNGKey) -> np.ndarray | None:
    """The 5 % and 95 % quantiles from the split on, (2, N, D), of a model that predicts more than a point.

    Of a direct head as it predicts them, as far as it reaches; else of sampled trajectories.
    """
    if found.config.model.head in ("point", "median") or found.name in series_config.BASELINES:
        return None
    if isinstance(found.model, rollout.DirectModel):
        return _direct_band(found)
    forecast, first = found.config.forecast, found.series.split.test_start
    num_steps = min(forecast.max_horizon, len(found.series.values) - first)
    paths = rollout.sample_paths(
        key,
        found.model,
        found.params,
        found.series.inputs[:first],
        num_paths=forecast.num_paths,
        num_steps=num_steps,
        ahead=found.series.ahead(np.array([first]), num_steps),
    )
    return np.quantile(found.series.scaler.undo(np.asarray(paths)), BAND, axis=0)


def _direct_band(found: Forecasts) -> np.ndarray:
    """The quantiles that a direct head predicts from the split."""
    series, first = found.series, found.series.split.test_start
    seen, num_steps = jnp.asarray(series.inputs[None, :first]), len(series.values) - first
    carry, _ = found.model.unroll(found.params, found.model.init_carry(found.params, 1), seen)
    known = series.ahead(np.array([first]), num_steps)
    prediction = predict_directly(found.model, found.params, carry, known)
    ahead = quantiles(prediction, BAND)[0, :num_steps]
    return series.scaler.undo(np.moveaxis(ahead, -1, 0))


def summary(found: Forecasts) -> dict[str, Any]:
    """The figures, in the units of the series; None for what is undefined, where nothing came."""
    name, series = found.name, found.series
    curve, actual = found.curves[name], series.series.observed()[series.split.test_start :]
    horizon, persistence = found.points.shape[1], found.curves["persistence"].rmse
    at = [k for k in HORIZONS if k <= horizon]
    oracle = {} if found.oracle is None else {f"oracle_rmse_at_{k}": float(found.oracle[k - 1]) for k in at}
    phase = errors.growth_phase(curve.log_error) if series.series.lyapunov else slice(0, 0)
    figures = {
        "series": series.series.name,
        "model": name,
        "objective": found.config.objective.objective,
        "num_parameters": count_parameters(found.params),
        "num_origins": len(found.points),
        "one_step_rmse": rmse(found.one_step, actual),
        **{f"rmse_at_{k}": float(curve.rmse[k - 1]) for k in at},
        **{f"mae_at_{k}": float(curve.mae[k - 1]) for k in at},
        **{f"relative_to_persistence_at_{k}": ratio(curve.rmse[k - 1], persistence[k - 1]) for k in at},
        **oracle,
        "free_running_rmse": rmse(found.free, actual),
        **{f"{rival}_rmse": value for rival, value in found.baseline_rmse.items()},
        **{
            f"{rival}_rmse_at_{k}": float(found.curves[rival].rmse[k - 1])
            for rival in found.curves
            if rival != name
            for k in at
        },
        "last_horizon_below_mean": errors.last_horizon_below(curve.rmse, found.curves["mean"].rmse),
        "error_growth_per_step": errors.growth_per_step(curve.log_error, phase),
        "rmse_growth_per_step": errors.growth_per_step(errors.log_size(curve.rmse), phase),
        "lyapunov_per_step": series.series.lyapunov,
        "log_density": found.log_density,
        **_spread_figures(found, at),
        "params_digest": digest(found.params),
    }
    return finite(figures)


def _spread_figures(found: Forecasts, at: list[int]) -> dict[str, Any]:
    """Of the quantiles, over all horizons and at some."""
    if found.spread is None:
        return {}
    figures: dict[str, Any] = {"quantiles": kind_of(found.config, found.points.shape[1])}
    means = found.spread.means()
    figures |= {"pinball_loss": means.pop("pinball"), **means}
    each = {"pinball_loss": found.spread.pinball} | {name: getattr(found.spread, name) for name in means}
    return figures | {f"{name}_at_{k}": float(values[0, k - 1]) for name, values in each.items() for k in at}


def ratio(value: float, unit: float) -> float:
    """One over the other; NaN where that is nothing."""
    return float(value / unit) if unit != 0 else math.nan

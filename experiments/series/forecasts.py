"""A fitted model of a series against what came: curves, table, sentence, pictures, summary."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import app
from experiments.series.prepared import Prepared, log_density
from lmseq import errors, plotting, rollout
from lmseq.config import series as series_config
from lmseq.contract import Model
from lmseq.models.baselines import Drift, Mean, Persistence, SeasonalNaive
from lmseq.models.interface import count_parameters
from lmseq.errors import ErrorCurve
from lmseq.config.series import SeriesConfig
from lmseq.training.checkpoint import digest
from lmseq.types import Params, PRNGKey

HORIZONS = (1, 4, 16, 64)


class Judged(NamedTuple):
    """Forecasts of the test part in the units of the series, and the errors of all that is compared.

    points: (O, K, D) from every origin with K points after it; one_step: (N, D) of every test point; free:
    (N, D) from the split; rival_rmse: of the baselines one step ahead, over every test point.
    """

    points: np.ndarray
    one_step: np.ndarray
    free: np.ndarray
    curves: dict[str, ErrorCurve]
    rival_rmse: dict[str, float]
    oracle: np.ndarray | None
    log_density: float | None


def judge(config: SeriesConfig, prepared: Prepared, model: Model, params: Params) -> Judged:
    """Forecast the test part from every origin, one step ahead and freely; and so do the baselines."""
    values, start = prepared.values, prepared.split.test_start
    horizon = longest_horizon(config, prepared)
    targets = rollout.k_step_targets(prepared.series.observed(), max_horizon=horizon, first_origin=start)

    def points_of(model: Model, params: Params, horizon: int) -> np.ndarray:
        points = rollout.k_step_points(model, params, values, max_horizon=horizon, first_origin=start)
        return prepared.scaler.undo(np.asarray(points))

    points = points_of(model, params, horizon)
    rivals = baselines(values.shape[1], prepared.series.period, prepared.split.train_end)
    curves = {config.model.model: errors.error_curve(points, targets)}
    for name, rival in rivals.items():
        curves[name] = errors.error_curve(points_of(rival, {}, horizon), targets)
    actual = prepared.series.observed()[start:]
    rival_rmse = {name: rmse(points_of(rival, {}, 1)[:, 0], actual) for name, rival in rivals.items()}
    free = rollout.free_run(model, params, values[:start], num_steps=len(values) - start)
    oracle = prepared.series.oracle_rmse
    density = None
    if config.model.head == "normal" and config.model.model not in series_config.BASELINES:
        density = log_density(prepared, model, params, start, len(values))
    return Judged(
        points,
        points_of(model, params, 1)[:, 0],
        prepared.scaler.undo(np.asarray(free)),
        curves,
        rival_rmse,
        None if oracle is None else oracle(horizon),
        density,
    )


def longest_horizon(config: SeriesConfig, prepared: Prepared) -> int:
    """At most half of the test part, so that even the furthest horizon is seen from many origins."""
    return min(config.forecast.max_horizon, max(1, (len(prepared.values) - prepared.split.test_start) // 2))


def baselines(num_features: int, period: int, num_train: int) -> dict[str, Model]:
    """Those that the series allows: the season needs one that has been seen whole."""
    rivals: dict[str, Model] = {"mean": Mean(num_features), "persistence": Persistence(num_features)}
    if 0 < period < num_train:
        rivals["seasonal"] = SeasonalNaive(num_features, period)
    return rivals | {"drift": Drift(num_features)}


def rmse(points: np.ndarray, targets: np.ndarray) -> float:
    """Root mean square of the difference over all entries whose target is known."""
    return float(np.sqrt(np.nanmean((points - targets) ** 2)))


def tell(config: SeriesConfig, prepared: Prepared, judged: Judged) -> None:
    """A table of RMSE(k), and the sentence that it comes to."""
    horizon = judged.points.shape[1]
    shown = [k for k in HORIZONS if k <= horizon]
    app.say(
        f"{'RMSE, k steps ahead':<22}" + "".join(f"{k:>10}" for k in shown) + "   better than the mean at k ="
    )
    rows = {f"{name}": curve.rmse for name, curve in judged.curves.items()}
    if judged.oracle is not None:
        rows["least that is expected"] = judged.oracle
    level = judged.curves["mean"].rmse
    for name, curve in rows.items():
        figures = "".join(f"{curve[k - 1]:>10.4g}" for k in shown)
        app.say(f"{name:<22}{figures}   {horizons(curve < level)}")
    name = config.model.model
    app.say(sentence(name, judged.curves[name].rmse, level, judged.curves["persistence"].rmse))


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


def draw(
    config: SeriesConfig,
    workdir: Path,
    prepared: Prepared,
    model: Model,
    params: Params,
    judged: Judged,
    key: PRNGKey,
) -> None:
    """forecast.png, the series with its forecasts, and error_curve.png, with oracle and baselines."""
    start, name = prepared.split.test_start, config.model.model
    seen = prepared.values[:start]
    title = f"{prepared.series.name}: {name}, tau = {config.model.tau}"
    band = None
    if judged.log_density is not None and not isinstance(model, rollout.DirectModel):
        num_steps = min(config.forecast.max_horizon, len(prepared.values) - start)
        paths = rollout.sample_paths(
            key, model, params, seen, num_paths=config.forecast.num_paths, num_steps=num_steps
        )
        band = np.quantile(prepared.scaler.undo(np.asarray(paths)), [0.05, 0.95], axis=0)
    figure = plotting.forecast(
        prepared.series.values,
        start,
        judged.one_step,
        judged.free,
        judged.points,
        band,
        HORIZONS,
        title,
        times=prepared.series.times,
        ylabel=prepared.series.columns[0],
    )
    plotting.save_figure(figure, workdir / "forecast.png")
    figure = plotting.error_curves(judged.curves, name, judged.oracle, title)
    plotting.save_figure(figure, workdir / "error_curve.png")
    names = "forecast.png  error_curve.png"
    if prepared.series.lyapunov is not None:
        figure = plotting.error_growth(judged.curves[name], prepared.series.lyapunov, title)
        plotting.save_figure(figure, workdir / "error_growth.png")
        names += "  error_growth.png"
    app.say(f"{workdir}: {names}  summary.json")


def summary(config: SeriesConfig, prepared: Prepared, params: Params, judged: Judged) -> dict[str, Any]:
    """The figures, in the units of the series."""
    name = config.model.model
    curve, actual = judged.curves[name], prepared.series.observed()[prepared.split.test_start :]
    horizon, persistence = judged.points.shape[1], judged.curves["persistence"].rmse
    at = [k for k in HORIZONS if k <= horizon]
    oracle = {} if judged.oracle is None else {f"oracle_rmse_at_{k}": float(judged.oracle[k - 1]) for k in at}
    phase = errors.growth_phase(curve.log_error) if prepared.series.lyapunov else slice(0, 0)
    return {
        "series": prepared.series.name,
        "model": name,
        "objective": config.objective.objective,
        "num_parameters": count_parameters(params),
        "num_origins": len(judged.points),
        "one_step_rmse": rmse(judged.one_step, actual),
        **{f"rmse_at_{k}": float(curve.rmse[k - 1]) for k in at},
        **{f"mae_at_{k}": float(curve.mae[k - 1]) for k in at},
        **{f"relative_to_persistence_at_{k}": float(curve.rmse[k - 1] / persistence[k - 1]) for k in at},
        **oracle,
        "free_running_rmse": rmse(judged.free, actual),
        **{f"{rival}_rmse": value for rival, value in judged.rival_rmse.items()},
        **{
            f"{rival}_rmse_at_{k}": float(judged.curves[rival].rmse[k - 1])
            for rival in judged.curves
            if rival != name
            for k in at
        },
        "last_horizon_below_mean": errors.last_horizon_below(curve.rmse, judged.curves["mean"].rmse),
        "error_growth_per_step": errors.growth_per_step(curve.log_error, phase),
        "rmse_growth_per_step": errors.growth_per_step(np.log(curve.rmse), phase),
        "lyapunov_per_step": prepared.series.lyapunov,
        "log_density": judged.log_density,
        "params_digest": digest(jax.tree.map(np.asarray, params)),
        "wall_seconds": app.seconds(),
    }

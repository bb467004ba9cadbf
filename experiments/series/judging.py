"""Forecasts of the test parts of a panel, judged free of units and beside those that anyone can make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.frame.console import say
from experiments.series.forecasts import baselines
from experiments.series.refitting import points_of, stretches
from experiments.series.spread import (
    Intervals,
    Spread,
    describe,
    judge_quantiles,
    keeping,
    kind_of,
    quantiles_of,
)
from lmseq import accuracy, panels, plotting
from lmseq.accuracy import mean_known
from lmseq.config.series import SeriesConfig
from lmseq.contract import Model
from lmseq.data.series import Prepared, PreparedPanel
from lmseq.files import finite, write_text
from lmseq.models.interface import count_parameters
from lmseq.panels import Origins
from lmseq.plotting import AHEAD, Curve, Panel
from lmseq.training.checkpoint import digest
from lmseq.types import Params

FIGURES = ("smape", "mase", "mse", "mae")
SHOWN = 6  # series in the picture
RIVALS = {
    "naive": "persistence",
    "seasonal": "seasonal",
    "drift": "drift",
    "mean": "mean",
}  # as M4 calls them


class Errors(NamedTuple):
    """Errors of one forecaster by series and horizon, (N, K) each: means over the origins and variables.

    smape: percent. mase: over the seasonal step of all that stands before the test part. mse, mae: of values
    standardised by the training part.
    """

    smape: np.ndarray
    mase: np.ndarray
    mse: np.ndarray
    mae: np.ndarray

    def means(self) -> dict[str, float]:
        """Each figure over all series and horizons, every series weighing the same."""
        return {name: float(mean_known(mean_known(each, 1))) for name, each in self._asdict().items()}


class Judged(NamedTuple):
    """What a fitted model came to: errors of it and of each rival by name, and its forecasts.

    points: (O_n, K, D) of each series, in its units; origins: where they begin; spread: how good its
    quantiles are, the loss over the seasonal step, as that of mase; intervals: errors made before. around:
    the quantiles (1, L, K, D) of the forecast from the last origin of each series.
    """

    config: SeriesConfig
    panel: PreparedPanel
    params: Params
    errors: dict[str, Errors]
    points: list[np.ndarray]
    origins: list[Origins]
    naive2: Errors | None
    spread: Spread | None = None
    intervals: Intervals | None = None
    around: list[np.ndarray] | None = None


def horizon_of(config: SeriesConfig, panel: PreparedPanel) -> int:
    """Steps ahead: as many as asked for, or as the shortest test part has. Raises ValueError for too many."""
    shortest = min(panel.members, key=lambda each: len(each.values))
    asked = config.forecast.max_horizon
    if asked >= len(shortest.values):
        raise ValueError(
            f"expected max_horizon below the length of each series, {shortest.series.name} has "
            f"{len(shortest.values)} points, got {asked}"
        )
    return min(asked, *(each.test_points for each in panel.members))


def judge(
    config: SeriesConfig,
    panel: PreparedPanel,
    model: Model,
    params: Params,
    intervals: Intervals | None = None,
) -> Judged:
    """Forecast every test part from all origins with the whole horizon after them; so do the rivals.

    intervals: errors made before, for quantiles; without them none is judged.
    """
    horizon, step = horizon_of(config, panel), config.forecast.origin_step
    origins = [
        Origins(each.split.test_start, (each.test_points - horizon) // step + 1, step)
        for each in panel.members
    ]
    parts = stretches(config, panel, model, params, origins)
    found = points_of(panel, model, parts, horizon)
    points = [each.scaler.undo(part) for each, part in zip(panel.members, found, strict=True)]
    spread, kept = None, []
    if intervals is not None:
        last = [np.array([-1])] * len(origins)
        around = keeping(quantiles_of(config, panel, model, parts, intervals, found), last, kept)
        spread = judge_quantiles(panel, origins, around, _steps(panel))
    errors = {config.model.model: errors_of(panel, points, origins)}
    levels = [each.series.values[: each.split.train_end].mean(axis=0) for each in panel.members]
    lifted = [each.series.values - level for each, level in zip(panel.members, levels, strict=True)]
    for name, rival in rivals(panel).items():
        found = panels.panel_points(rival, {}, lifted, origins, max_horizon=horizon)
        theirs = [np.asarray(part, np.float64) + level for part, level in zip(found, levels, strict=True)]
        errors[name] = errors_of(panel, theirs, origins)
    naive2 = _naive2(panel, origins, horizon)
    return Judged(config, panel, params, errors, points, origins, naive2, spread, intervals, kept or None)


def _steps(panel: PreparedPanel) -> list[np.ndarray]:
    """The seasonal step of each series before its test part, (D,)."""
    known = [each.series.observed()[: each.split.test_start] for each in panel.members]
    return [accuracy.seasonal_scale(each, panel.period) for each in known]


def rivals(panel: PreparedPanel) -> dict[str, Model]:
    """Those that the panel allows: the season needs one that each training part holds whole."""
    num_train = min(each.split.train_end for each in panel.members)
    found = baselines(panel.num_features, panel.period, num_train)
    return {name: found[kind] for name, kind in RIVALS.items() if kind in found}


def errors_of(panel: PreparedPanel, points: Sequence[np.ndarray], origins: Sequence[Origins]) -> Errors:
    """The errors of forecasts (O_n, K, D) in the units of each series; NaN where nothing is known."""
    rows = [
        _errors_of_one(each, *part, panel.period)
        for each, *part in zip(panel.members, points, origins, strict=True)
    ]
    return Errors(*(np.stack(each) for each in zip(*rows, strict=True)))


def _errors_of_one(
    member: Prepared, points: np.ndarray, origins: Origins, period: int
) -> tuple[np.ndarray, ...]:
    """Of one series, (K,) each."""
    actual, before = member.series.observed(), member.series.observed()[: member.split.test_start]
    targets = panels.values_ahead(actual, origins, points.shape[1])
    distance = np.abs(points - targets)
    step = accuracy.seasonal_scale(before, period)
    deviation = member.series.values[: member.split.train_end].std(axis=0)
    in_steps, standardised = (distance / np.where(unit > 0, unit, np.nan) for unit in (step, deviation))
    each = (accuracy.smape(points, targets), in_steps, standardised**2, standardised)
    return tuple(mean_known(errors, (0, 2)) for errors in each)


def _naive2(panel: PreparedPanel, origins: Sequence[Origins], horizon: int) -> Errors | None:
    """The benchmark of the M competitions, which is for one value a step and one origin a series."""
    if panel.num_features > 1 or any(each.count != 1 for each in origins):
        return None
    known = [
        each.series.values[: origin.first, 0] for each, origin in zip(panel.members, origins, strict=True)
    ]
    points = [accuracy.naive2(each, panel.period, horizon)[None, :, None] for each in known]
    return errors_of(panel, points, origins)


# What is told


def tell(judged: Judged) -> None:
    """A table of the figures, the model first, and a sentence on its quantiles."""
    say(f"{'':<14}" + "".join(f"{name:>10}" for name in FIGURES))
    for name, errors in judged.errors.items():
        means = errors.means()
        say(f"{name:<14}" + "".join(f"{means[figure]:>10.4g}" for figure in FIGURES))
    if judged.spread is not None:
        kind = kind_of(judged.config, judged.points[0].shape[1])
        say(describe(judged.spread.means(), kind, judged.intervals.part))


def summary(judged: Judged) -> dict[str, Any]:
    """The figures; None for what is undefined."""
    config, (name, *others) = judged.config, judged.errors
    own = judged.errors[name].means()
    figures: dict[str, Any] = {
        "series": judged.panel.panel.name,
        "num_series": len(judged.panel.members),
        "model": name,
        "objective": config.objective.objective,
        "num_parameters": count_parameters(judged.params),
        "num_origins": sum(each.count for each in judged.origins),
        "horizon": judged.points[0].shape[1],
        "season": judged.panel.period,
        "smape": own["smape"],
        "mase": own["mase"],
        "test_mse": own["mse"],
        "test_mae": own["mae"],
    }
    for other in others:
        means = judged.errors[other].means()
        figures |= {f"{other}_smape": means["smape"], f"{other}_mase": means["mase"]}
        figures |= {f"{other}_mse": means["mse"]}
    if judged.naive2 is not None:
        theirs = judged.naive2.means()
        figures |= {"naive2_smape": theirs["smape"], "naive2_mase": theirs["mase"]}
        figures["owa"] = (own["smape"] / theirs["smape"] + own["mase"] / theirs["mase"]) / 2
    if judged.spread is not None:
        figures["quantiles"] = kind_of(config, figures["horizon"])
        means = judged.spread.means()
        figures |= {"scaled_pinball_loss": means.pop("pinball"), **means}
    reference = "seasonal" if "seasonal" in judged.errors else "naive"
    figures["skill"] = 1.0 - own["mae"] / judged.errors[reference].means()["mae"]
    return finite(figures | {"params_digest": digest(judged.params)})


def write_tables(workdir: Path, judged: Judged) -> None:
    """series.csv, a row a series, and horizons.csv, a row a step ahead: every figure of every forecaster."""
    import pandas

    names = [each.series.name for each in judged.panel.members]
    for file, axis, index in (
        ("series.csv", 1, pandas.Index(names, name="series")),
        ("horizons.csv", 0, pandas.RangeIndex(1, judged.points[0].shape[1] + 1, name="horizon")),
    ):
        columns = {
            f"{name}_{figure}": mean_known(each, axis)
            for name, errors in judged.errors.items()
            for figure, each in errors._asdict().items()
        }
        if judged.spread is not None:
            own = judged.spread._asdict().items()
            columns |= {f"{judged.config.model.model}_{of}": mean_known(each, axis) for of, each in own}
        write_text(workdir / file, pandas.DataFrame(columns, index).to_csv(float_format="%.6g"))


def draw(workdir: Path, judged: Judged) -> None:
    """error_curve.png, the errors by horizon, and forecast.png, some series with what was forecast."""
    title = f"{judged.panel.panel.name}: {judged.config.model.model}"
    steps = np.arange(1, judged.points[0].shape[1] + 1)
    drawn = []
    for figure, label in (("smape", "sMAPE, %"), ("mase", "MASE")):
        by_horizon = {name: mean_known(getattr(each, figure), 0) for name, each in judged.errors.items()}
        curves = [Curve(name, steps, values) for name, values in by_horizon.items()]
        drawn.append(Panel(title, AHEAD, label, curves))
    plotting.save_figure(plotting.draw_panels(drawn), workdir / "error_curve.png")
    plotting.save_figure(plotting.draw_panels(_some(judged)), workdir / "forecast.png")
    say(f"{workdir}: page.html  forecast.png  error_curve.png  series.csv  horizons.csv  summary.json")


def _some(judged: Judged) -> list[Panel]:
    """Series from the best to the worst forecast, in equal steps: the end of what was known, what came."""
    mase = mean_known(judged.errors[judged.config.model.model].mase, 1)
    order = np.argsort(mase, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))]
    drawn = []
    for place in chosen:
        member, points, origins = judged.panel.members[place], judged.points[place], judged.origins[place]
        horizon, origin = points.shape[1], origins.last
        first = max(0, origin - 3 * horizon)
        known = np.arange(first, origin + horizon)
        curves = [
            Curve("what came", known, member.series.observed()[first : origin + horizon, 0], style="k-"),
            Curve("forecast", np.arange(origin, origin + horizon), points[-1, :, 0], style="C1--"),
        ]
        drawn.append(
            Panel(f"{member.series.name}: MASE {mase[place]:.2f}", "step", member.series.columns[0], curves)
        )
    return drawn

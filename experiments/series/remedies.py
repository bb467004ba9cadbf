"""Error curves of models that are trained with each remedy against the accumulation of errors."""

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np

from experiments.frame.console import say
from experiments.frame.intervals import flat, interval
from experiments.frame.measurements import measured
from experiments.series import objectives_picture
from experiments.series.forecasts import HORIZONS, longest_horizon
from experiments.series.loading import load
from lmseq import errors, plotting, rollout
from lmseq.config.series import ObjectiveConfig, SeriesConfig, segment_length
from lmseq.data.partition import sliding
from lmseq.data.series import PreparedPanel
from lmseq.models.build import model_of
from lmseq.training.fit import fit
from lmseq.training.job import Batches
from lmseq.training.memory import check_memory
from lmseq.training.objectives import make_objective
from lmseq.training.sharding import check_batch, make_mesh

OBJECTIVES = get_args(ObjectiveConfig.__dataclass_fields__["objective"].type)


class ErrorCurves:
    """The error curve of one objective and seed; keeps what it compiled for the seeds that follow."""

    def __init__(self, config: SeriesConfig, panel: PreparedPanel) -> None:
        self._config, self._panel, self._prepared, self._set_up_for = config, panel, panel.only, None

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        """RMSE(k) over all origins of the test part, in the units of the series."""
        if self._set_up_for != unit["objective"]:
            self._set_up_for = unit["objective"]
            self._set_up(unit["objective"])
        prepared, start = self._prepared, self._prepared.split.test_start
        train = dataclasses.replace(self._config.train, seed=unit["seed"])
        params, _ = fit(self._model, prepared.train, train, batches=self._batches, objective=self._objective)
        horizon = longest_horizon(self._config, prepared)
        points = rollout.k_step_points(
            self._model,
            params,
            prepared.inputs,
            max_horizon=horizon,
            first_origin=start,
            ahead=prepared.ahead_of_all(start, horizon),
        )
        targets = rollout.k_step_targets(prepared.series.observed(), max_horizon=horizon, first_origin=start)
        curve = errors.error_curve(prepared.scaler.undo(np.asarray(points)), targets)
        return {"rmse": curve.rmse.tolist()}

    def _set_up(self, objective: str) -> None:
        chosen = dataclasses.replace(self._config.objective, objective=objective)
        config = dataclasses.replace(self._config, objective=chosen)
        self._model, self._objective = model_of(config, self._panel), make_objective(config)
        self._batches = Batches(config.data.batch_size, segment_length(config), sliding)


def prepare(config: SeriesConfig) -> PreparedPanel:
    """The series, long enough for the longest segments: those of several steps ahead."""
    longest = dataclasses.replace(config.objective, objective="unrolled")
    prepared = load(dataclasses.replace(config, objective=longest))
    _ = prepared.only  # or ValueError
    check_batch(make_mesh(), config.data.batch_size, config.train.accumulate_steps)
    check_memory(model_of(config, prepared))
    return prepared


def compare(workdir: Path, config: Any, prepared: PreparedPanel) -> dict[str, Any]:
    """Train with each objective from each seed; the table, the picture, the summary."""
    seeds = range(config.train.seed, config.train.seed + config.seeds.num_seeds)
    units = [{"objective": objective, "seed": seed} for objective in OBJECTIVES for seed in seeds]
    records = list(measured(workdir, units, ErrorCurves(config, prepared)))
    name = prepared.only.series.name
    title = f"{name}: {config.model.model}"
    panel = objectives_picture.panel(records, title)
    plotting.save_figure(plotting.draw_panels([panel]), workdir / "objectives.png")
    return {"series": name, **table(records)}


def least_of(means: dict[str, float]) -> str | None:
    """The name of the least that is a number; None where none is."""
    return min((name for name in means if math.isfinite(means[name])), key=means.__getitem__, default=None)


def table(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The table: RMSE at each horizon, with intervals, the least in each column marked."""
    summary: dict[str, Any] = {}
    shown = [k for k in HORIZONS if k <= len(records[0]["rmse"])]
    found = {
        (objective, k): interval(rmse[:, k - 1])
        for objective, rmse in objectives_picture.by_objective(records).items()
        for k in shown
    }
    least = {k: least_of({objective: found[objective, k].mean for objective in OBJECTIVES}) for k in shown}
    say(f"{'RMSE, k steps ahead':<22}" + "".join(f"{k:>30}" for k in shown))
    for objective in OBJECTIVES:
        cells = (f"{found[objective, k]}{'*' if least[k] == objective else ' '}" for k in shown)
        say(f"{objective:<22}" + "".join(f"{cell:>30}" for cell in cells))
        for k in shown:
            summary |= flat(f"{objective}_rmse_at_{k}", found[objective, k])
    return summary | {f"least_at_{k}": objective for k, objective in least.items()}

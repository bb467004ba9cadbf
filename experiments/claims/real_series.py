"""Real series with their parts and horizons, and the errors of linear maps and recurrent nets on them."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import presets
from experiments.frame.start import data_folders
from experiments.series import judging
from lmseq import panels
from lmseq.config import series as series_config
from lmseq.config.kinds import CellKind
from lmseq.config.knobs import from_flat, to_flat
from lmseq.config.series import SYNTHETIC, SeriesConfig, SeriesModelConfig
from lmseq.contract import Model
from lmseq.data.series import PreparedPanel, prepare
from lmseq.models.baselines import Persistence, SeasonalNaive
from lmseq.models.build import build_series_model
from lmseq.models.linear import fit_map
from lmseq.panels import Origins
from lmseq.training.fit import fit
from lmseq.training.job import Batches
from lmseq.training.objectives import make_objective
from lmseq.types import Params

ETT = "ett/ETTh1.csv"
BUNDLED = ("sunspots", "elnino", "co2", "nile")
PART = 0.2  # share of the validation part, and of the test part, as in ETT's papers
SEASONLESS = 8  # steps ahead where a series has no season
# Mean squared errors on ETT's test part, 96 steps ahead (Nie et al. 2023; Zeng et al. 2023).
PUBLISHED = {"PatchTST/64, published": 0.370, "NLinear, published": 0.374, "DLinear, published": 0.375}


class Task(NamedTuple):
    """Series that one model is made for, and how far ahead they are forecast."""

    name: str
    panel: PreparedPanel
    horizon: int

    @property
    def train_points(self) -> int:
        """Of the shortest training part."""
        return min(each.split.train_end for each in self.panel.members)


def folders() -> list[Path]:
    """Where files are looked for, beside where they are said to be."""
    return [folder for folder in data_folders() if folder is not None]


def names_here() -> tuple[str, ...]:
    """ETTh1, where its file is found, and the series that come with statsmodels."""
    found = any((folder / ETT).exists() for folder in (Path(), *folders()))
    return (ETT,) * found + BUNDLED


def settings(name: str) -> SeriesConfig:
    """The parts of a series: ETTh1's as its papers have them, of any other three, one and one fifth."""
    if name == ETT:
        return from_flat(presets.etth1_96(), SeriesConfig)
    known: dict[str, Any] = {"series": name, "valid_fraction": PART, "test_fraction": PART}
    # One lag and two steps ahead, which a series of any use allows.
    known |= {"model": "linear", "tau": 1, "ridge": -1.0, "normalisation": "last"}
    known |= {"objective": "direct", "num_ahead": 2, "max_horizon": 2}
    if name not in SYNTHETIC:
        known["missing"] = "previous"
    if series_config.is_file(from_flat({"series": name}, SeriesConfig).data):
        known["channels"] = "independent"
    return series_config.check(from_flat(known, SeriesConfig))


def load_task(name: str) -> Task:
    """A series, read and split; a season ahead, or at most half of the shortest test part.

    Raises ValueError for one that is not there or too short.
    """
    config = settings(name)
    panel = prepare(config, folders())
    if name == ETT:
        return Task(name, panel, config.forecast.max_horizon)
    shortest = min(each.test_points for each in panel.members)
    return Task(name, panel, max(2, min(panel.period or SEASONLESS, shortest // 2)))


def error(task: Task, model: Model, params: Params, part: str) -> float:
    """Mean squared error of standardised values over all origins, steps ahead and series of a part."""
    origins = []
    for member in task.panel.members:
        first, last = member.split
        if part == "test":
            first, last = last, len(member.values)
        origins.append(Origins(first, last - first - task.horizon + 1))
    values = [each.values for each in task.panel.members]
    found = panels.panel_points(model, params, values, origins, max_horizon=task.horizon)
    points = [each.scaler.undo(rows) for each, rows in zip(task.panel.members, found, strict=True)]
    return judging.errors_of(task.panel, points, origins).means()["mse"]


def naive_error(task: Task) -> float:
    """Of the season before, or of the last value where there is none."""
    num_features, period = task.panel.num_features, task.panel.period
    naive = SeasonalNaive(num_features, period) if period else Persistence(num_features)
    return error(task, naive, {}, "test")


def map_errors(task: Task, tau: int) -> dict[str, float]:
    """Errors of the linear map of tau values, its ridge chosen on the validation part."""
    kind = SeriesModelConfig(model="linear", tau=tau, normalisation="last", ridge=-1.0)
    model = build_series_model(kind, task.panel.num_features, num_direct=task.horizon)
    params = fit_map(task.panel.members, tau, task.horizon, kind.normalisation, kind.ridge)
    return {part: error(task, model, params, part) for part in ("valid", "test")}


# Recurrent nets


@dataclass(frozen=True)
class NetSettings:
    """A recurrent net and its training."""

    cell: CellKind
    hidden_size: int
    num_read: int
    num_train_steps: int


def net_config(task: Task, net: NetSettings) -> SeriesConfig:
    """What `predict_series` trains a net by, on a series of this length, but for what `net` says.

    Before the first origin of a segment lie num_read values, at most a quarter of the training part.
    """
    known = {"series": task.name, "model": net.cell, "valid_fraction": PART, "test_fraction": PART}
    implied = series_config.net_settings(
        to_flat(SeriesConfig()) | known,
        frozenset({"valid_fraction"}),
        round(task.train_points / (1 - 2 * PART)),
    )
    implied |= {"tau": max(1, min(net.num_read, task.train_points // 4)), "num_ahead": task.horizon}
    implied |= {"hidden_size": net.hidden_size, "num_train_steps": net.num_train_steps}
    implied |= {"warmup_steps": min(50, net.num_train_steps - 1)}
    return from_flat(implied | known, SeriesConfig)


def net_errors(task: Task, net: NetSettings, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Errors of a net from each seed, which has read all that lies before an origin.

    Of each training the parameters that are best on the validation part.
    """
    config = net_config(task, net)
    model = build_series_model(config.model, task.panel.num_features, num_direct=task.horizon)
    batches = Batches(config.data.batch_size, series_config.segment_length(config), task.panel.partition)
    found: dict[str, list[float]] = {"valid": [], "test": []}
    for seed in seeds:
        best = Best(task, model)
        fit(
            model,
            task.panel.train,
            dataclasses.replace(config.train, seed=seed),
            batches=batches,
            objective=make_objective(config),
            evaluate=best,
        )
        found["valid"].append(best.loss)
        found["test"].append(error(task, model, best.params, "test"))
    return found


class Best:
    """The validation error during a training; keeps the parameters that had the least."""

    def __init__(self, task: Task, model: Model) -> None:
        self._task, self._model = task, model
        self.loss, self.params = math.inf, None

    def __call__(self, params: Params, step: int) -> dict[str, float]:
        """The error of these parameters."""
        loss = error(self._task, self._model, params, "valid")
        if self.params is None or loss < self.loss:
            # To the host: the training goes on in the same memory.
            self.loss, self.params = loss, jax.tree.map(np.array, params)
        return {"valid_loss": loss}

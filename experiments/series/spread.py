"""Quantiles around forecasts, a model's own or those of errors made before, and how good they are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments.series.refitting import Stretch, joined
from lmseq import calibration, conformal, panels
from lmseq.accuracy import mean_known, seasonal_scale
from lmseq.config.series import BASELINES, SeriesConfig, num_direct
from lmseq.contract import Model
from lmseq.data.prepared import Prepared, PreparedPanel
from lmseq.files import read_json, to_json, write_text
from lmseq.panels import Origins
from lmseq.predictions import quantiles
from lmseq.types import Params

INTERVALS = "intervals.json"
LEVELS = conformal.LEVELS
CENTRAL = {"coverage_80": (0.1, 0.9), "coverage_95": (0.025, 0.975)}
Kind = Literal["own", "conformal"]


class Intervals(NamedTuple):
    """Quantiles (L, K) of scores at levels, by horizon: of how many scores, and of which part."""

    levels: tuple[float, ...]
    quantiles: np.ndarray
    num_scores: int
    part: str

    def at(self, horizon: int) -> np.ndarray:
        """The quantiles to a horizon, (L, H); beyond the last that is known they are those of the last."""
        steps = np.minimum(np.arange(horizon), self.quantiles.shape[1] - 1)
        return self.quantiles[:, steps]


def unit_of(member: Prepared, end: int) -> np.ndarray:
    """The unit of the errors of a series: its mean seasonal step before `end`, (D,), as the model sees it."""
    unit = seasonal_scale(member.values[:end].astype(np.float64), member.series.period)
    return np.where(unit > 0, unit, 1.0)


def calibrate(panel: PreparedPanel, model: Model, params: Params, horizon: int) -> Intervals:
    """Quantiles of the scores of forecasts of the validation parts, as far as the shortest of them reaches.

    Without such parts they are of the last quarters of the training parts, which the model knows: intervals
    are then too narrow. Values that were missing do not count.
    """
    is_apart = all(each.split.train_end < each.split.test_start for each in panel.members)
    ends = [each.split.test_start for each in panel.members]
    firsts = [
        each.split.train_end if is_apart else end - max(1, end // 4)
        for each, end in zip(panel.members, ends, strict=True)
    ]
    reach = min(horizon, *(end - first for first, end in zip(firsts, ends, strict=True)))
    origins = [Origins(first, end - first - reach + 1) for first, end in zip(firsts, ends, strict=True)]
    found = panels.panel_points(model, params, *panels.read_from(panel, origins, reach), max_horizon=reach)
    scores = []
    for member, points, each in zip(panel.members, found, origins, strict=True):
        known = member.scaler.apply(member.series.observed())
        errors = (panels.values_ahead(known, each, reach) - points) / unit_of(member, each.first)
        scores.append(np.moveaxis(errors, 2, 1).reshape(-1, reach))
    joined = np.concatenate(scores)
    quantiles = conformal.score_quantiles(joined)
    return Intervals(conformal.LEVELS, quantiles, len(joined), "validation" if is_apart else "training")


def write_intervals(workdir: Path, found: Intervals) -> None:
    """Note them beside the run, from where `experiments.forecast` reads them."""
    facts = found._asdict() | {"quantiles": found.quantiles.tolist()}
    write_text(workdir / INTERVALS, to_json(facts) + "\n")


def read_intervals(workdir: Path) -> Intervals:
    """Those of a run; ValueError where there are none."""
    path = workdir / INTERVALS
    if not path.exists():
        # A finished run is only reprinted by its command.
        raise ValueError(
            f"{workdir} has no {INTERVALS}, as a run of an older version: remove its summary.json and give "
            "the command that it began with once more"
        )
    facts = read_json(path)
    try:
        rows = [facts["levels"].index(level) for level in LEVELS]
        quantiles = np.array(facts["quantiles"], np.float64)[rows]
        return Intervals(LEVELS, quantiles, facts["num_scores"], facts["part"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: restore it, or run again in another workdir") from None


# Quantiles of forecasts


def kind_of(config: SeriesConfig, horizon: int) -> Kind:
    """Whose quantiles are those of a run: its head's own, as far as it predicts at once, or of its errors."""
    has_spread = config.model.head not in ("point", "median") and config.model.model not in BASELINES
    return "own" if has_spread and horizon <= num_direct(config) else "conformal"


def quantiles_of(
    config: SeriesConfig,
    panel: PreparedPanel,
    model: Model,
    parts: Sequence[Stretch],
    intervals: Intervals,
    points: Sequence[np.ndarray],
) -> Iterator[np.ndarray]:
    """Quantiles at LEVELS of forecasts from the origins of each series, (O_n, L, K, D) each, in its units.

    points: the forecasts in the units of the model, (O_n, K, D). A conformal quantile is the forecast and
    that quantile of the errors, in these units: of logarithms it is a factor.
    """
    horizon = points[0].shape[1]
    if kind_of(config, horizon) == "conformal":
        for member, each, values in zip(panel.members, parts[0].origins, points, strict=True):
            spread = intervals.at(horizon)[None, :, :, None] * unit_of(member, each.first)
            yield member.scaler.undo(values[:, None] + spread)
        return

    def of_part(part: Stretch) -> list[np.ndarray]:
        read = panels.read_from(panel, part.origins, horizon)
        found = panels.panel_predictions(model, part.params, *read, horizon=horizon)
        return [np.moveaxis(quantiles(each, LEVELS), -1, 1) for each in found]

    for member, values in zip(panel.members, joined(parts, of_part), strict=True):
        yield member.scaler.undo(values)


def keeping(
    found: Iterator[np.ndarray], rows: Sequence[np.ndarray], kept: list[np.ndarray]
) -> Iterator[np.ndarray]:
    """The same quantiles; those of some origins of each series, `rows`, are kept on the way."""
    for values, chosen in zip(found, rows, strict=True):
        kept.append(values[chosen])
        yield values


# How good they are


class Spread(NamedTuple):
    """Of the quantiles of one model by series and horizon, (N, K): means over the origins and variables.

    coverage_80, coverage_95: the share of what came that lies in the central interval. pinball: the mean loss
    of the quantiles at LEVELS, in a unit of each series. NaN where nothing is known.
    """

    coverage_80: np.ndarray
    coverage_95: np.ndarray
    pinball: np.ndarray

    def means(self) -> dict[str, float]:
        """Each over all series and horizons, every series weighing the same."""
        return {name: float(mean_known(mean_known(each, 1))) for name, each in self._asdict().items()}


def judge_quantiles(
    panel: PreparedPanel,
    origins: Sequence[Origins],
    found: Iterator[np.ndarray],
    units: Sequence[np.ndarray],
) -> Spread:
    """Against what came after the origins; units (D,) of each series for the loss."""
    rows = []
    for member, each, values, unit in zip(panel.members, origins, found, units, strict=True):
        targets = panels.values_ahead(member.series.observed(), each, values.shape[2])
        known, row = ~np.isnan(targets), []
        for low, high in CENTRAL.values():
            inside = values[:, LEVELS.index(low)] <= targets, targets <= values[:, LEVELS.index(high)]
            row.append(mean_known(np.where(known, inside[0] & inside[1], np.nan), (0, 2)))
        loss = calibration.pinball(np.moveaxis(values, 1, -1), targets, LEVELS).mean(axis=-1)
        row.append(mean_known(loss / np.where(unit > 0, unit, np.nan), (0, 2)))
        rows.append(row)
    return Spread(*(np.stack(each) for each in zip(*rows, strict=True)))


def describe(figures: dict[str, float], kind: Kind, part: str) -> str:
    """One sentence on the quantiles, which may be of the errors of a part."""
    whose = "the head's own" if kind == "own" else f"of errors of the {part} part"
    if kind == "conformal" and part == "training":
        whose += ", too narrow"
    inside = [f"{100 * figures[name]:.1f} % in the central {name[-2:]} %" for name in CENTRAL]
    return f"quantiles ({whose}): {', '.join(inside)}; pinball loss {figures['pinball']:.4g}"

"""What comes next: forecasts beyond the end of series, with quantiles, dates, a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.frame.console import say
from lmseq import conformal, panels, plotting
from lmseq.accuracy import seasonal_scale
from lmseq.config.series import SeriesConfig
from lmseq.contract import Model
from lmseq.data.frequencies import future_times
from lmseq.data.series import Prepared, PreparedPanel
from lmseq.files import read_json, to_json, write_text
from lmseq.panels import Origins
from lmseq.plotting import Curve, Panel
from lmseq.types import Params

INTERVALS = "intervals.json"
SHOWN_LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)
SHOWN = 6  # series in the picture


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
        quantiles = np.array(facts["quantiles"], np.float64)
        return Intervals(tuple(facts["levels"]), quantiles, facts["num_scores"], facts["part"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: restore it, or run again in another workdir") from None


class Ahead(NamedTuple):
    """Forecasts of one series in its units.

    times: (H,) of the steps to come. point: (H, D). quantiles: (L, H, D), at the levels of the intervals.
    origin: how many values of the series stand before.
    """

    times: np.ndarray
    point: np.ndarray
    quantiles: np.ndarray
    origin: int


def forecast_ahead(
    panel: PreparedPanel,
    model: Model,
    params: Params,
    intervals: Intervals,
    horizon: int,
    origins: Sequence[int],
) -> list[Ahead]:
    """Forecasts 1 ... H steps after the origin of each series, with quantiles around them.

    A quantile is the forecast and that quantile of the scores, in the units that the model works in: of
    logarithms it is a factor.
    """
    places = [Origins(origin, 1) for origin in origins]
    found = panels.panel_points(model, params, *panels.read_from(panel, places, horizon), max_horizon=horizon)
    ahead = []
    for member, [points], origin in zip(panel.members, found, origins, strict=True):
        spread = intervals.at(horizon)[:, :, None] * unit_of(member, origin)
        times = _times_ahead(member.series.times, origin, panel.panel.frequency, horizon)
        undo = member.scaler.undo
        ahead.append(Ahead(times, undo(points), undo(points + spread), origin))
    return ahead


def _times_ahead(times: np.ndarray | None, origin: int, frequency: str, horizon: int) -> np.ndarray:
    """The times that come next; the numbers of the steps, from 1, where there are none."""
    if times is None:
        return np.arange(origin + 1, origin + horizon + 1)
    return future_times(times[:origin], frequency, horizon)


# What is written


def write_table(path: Path, panel: PreparedPanel, ahead: Sequence[Ahead], levels: Sequence[float]) -> None:
    """A row a series, variable and step: series, time, mean, and a column a quantile."""
    import pandas

    named = len({column for each in panel.members for column in each.series.columns}) > 1
    chosen = [levels.index(level) for level in SHOWN_LEVELS]
    parts = []
    for member, each in zip(panel.members, ahead, strict=True):
        for place, column in enumerate(member.series.columns):
            part = {"series": member.series.name}
            if named and panel.num_features > 1:
                part["column"] = column
            part |= {"time": spelled(each.times), "mean": each.point[:, place]}
            part |= {f"q{levels[at]:g}": each.quantiles[at, :, place] for at in chosen}
            parts.append(pandas.DataFrame(part))
    write_text(path, pandas.concat(parts, ignore_index=True).to_csv(index=False, float_format="%.8g"))


def spelled(times: np.ndarray) -> np.ndarray:
    """Dates as they are usually written, without a time of the day where all are at midnight."""
    if not np.issubdtype(times.dtype, np.datetime64):
        return times
    days = times.astype("datetime64[D]")
    return np.datetime_as_string(days if (days == times).all() else times.astype("datetime64[s]"))


def draw(path: Path, panel: PreparedPanel, ahead: Sequence[Ahead], levels: Sequence[float]) -> None:
    """Some series, evenly chosen: the end of what is known, the forecast and its central 90 %."""
    chosen = np.unique(np.linspace(0, len(ahead) - 1, SHOWN).round().astype(int))
    low, high = levels.index(0.05), levels.index(0.95)
    drawn = []
    for place in chosen:
        member, each = panel.members[place], ahead[place]
        horizon = len(each.point)
        first = max(0, each.origin - 3 * horizon)
        steps = np.arange(each.origin, each.origin + horizon)
        before = np.arange(first, each.origin)
        band = each.quantiles[[low, high], :, 0]
        curves = [
            Curve("known", before, member.series.observed()[first : each.origin, 0], style="k-"),
            Curve("forecast", steps, each.point[:, 0], band[0], band[1], "C0-", "central 90 %"),
        ]
        title = f"{member.series.name}, from {spelled(each.times[:1])[0]}"
        drawn.append(Panel(title, "step", member.series.columns[0], curves))
    plotting.save_figure(plotting.draw_panels(drawn), path)


def tell(panel: PreparedPanel, ahead: Sequence[Ahead], intervals: Intervals) -> None:
    """What was forecast, and what its quantiles are made of."""
    first, horizon = ahead[0], len(ahead[0].point)
    say(
        f"{panel.panel.name}: {len(ahead):,} series, {horizon} steps from {spelled(first.times[:1])[0]}"
        + (" of the first" if len(ahead) > 1 else "")
    )
    known = intervals.quantiles.shape[1]
    told = f"quantiles are of {intervals.num_scores:,} errors of the {intervals.part} part"
    if intervals.part == "training":
        told += ", which the model was fitted to: they are too narrow; give the run a valid_fraction"
    elif conformal.least_scores(SHOWN_LEVELS[0]) > intervals.num_scores:
        told += ": too few for the outer ones, which are the furthest of them"
    say(told + (f"; beyond step {known} they are those of step {known}" if known < horizon else ""))


def summary(panel: PreparedPanel, ahead: Sequence[Ahead], config: SeriesConfig) -> dict[str, Any]:
    """What was forecast."""
    return {
        "series": panel.panel.name,
        "num_series": len(ahead),
        "model": config.model.model,
        "horizon": len(ahead[0].point),
        "first_time": str(spelled(ahead[0].times[:1])[0]),
        "last_time": str(spelled(ahead[0].times[-1:])[0]),
    }

"""What comes next: forecasts beyond the end of series, with quantiles, dates, a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.frame.console import say
from experiments.series.refitting import Stretch, points_of
from experiments.series.spread import LEVELS, Intervals, Kind, kind_of, quantiles_of
from lmseq import conformal, plotting
from lmseq.config.series import SeriesConfig
from lmseq.contract import Model
from lmseq.data.frequencies import future_times
from lmseq.data.prepared import PreparedPanel
from lmseq.files import write_text
from lmseq.panels import Origins
from lmseq.plotting import Curve, Panel
from lmseq.types import Params

SHOWN_LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)
SHOWN = 6  # series in the picture


class Ahead(NamedTuple):
    """Forecasts of one series in its units.

    times: (H,) of the steps to come. point: (H, D). quantiles: (L, H, D), at LEVELS.
    origin: how many values of the series stand before.
    """

    times: np.ndarray
    point: np.ndarray
    quantiles: np.ndarray
    origin: int


def forecast_ahead(
    config: SeriesConfig,
    panel: PreparedPanel,
    model: Model,
    params: Params,
    intervals: Intervals,
    horizon: int,
    origins: Sequence[int],
) -> list[Ahead]:
    """Forecasts 1 ... H steps after the origin of each series, with quantiles: `quantiles_of`."""
    places = [Origins(origin, 1) for origin in origins]
    parts = [Stretch(params, places)]
    found = points_of(panel, model, parts, horizon)
    around = quantiles_of(config, panel, model, parts, intervals, found)
    ahead = []
    for member, [points], [quantiles], origin in zip(panel.members, found, around, origins, strict=True):
        times = _times_ahead(member.series.times, origin, panel.panel.frequency, horizon)
        ahead.append(Ahead(times, member.scaler.undo(points), quantiles, origin))
    return ahead


def _times_ahead(times: np.ndarray | None, origin: int, frequency: str, horizon: int) -> np.ndarray:
    """The times that come next; the numbers of the steps, from 1, where there are none."""
    if times is None:
        return np.arange(origin + 1, origin + horizon + 1)
    return future_times(times[:origin], frequency, horizon)


# What is written


def write_table(path: Path, panel: PreparedPanel, ahead: Sequence[Ahead]) -> None:
    """A row a series, variable and step: series, time, mean, and a column a quantile."""
    import pandas

    named = len({column for each in panel.members for column in each.series.columns}) > 1
    chosen = [LEVELS.index(level) for level in SHOWN_LEVELS]
    parts = []
    for member, each in zip(panel.members, ahead, strict=True):
        for place, column in enumerate(member.series.columns):
            part = {"series": member.series.name}
            if named and panel.num_features > 1:
                part["column"] = column
            part |= {"time": spelled(each.times), "mean": each.point[:, place]}
            part |= {f"q{LEVELS[at]:g}": each.quantiles[at, :, place] for at in chosen}
            parts.append(pandas.DataFrame(part))
    write_text(path, pandas.concat(parts, ignore_index=True).to_csv(index=False, float_format="%.8g"))


def spelled(times: np.ndarray) -> np.ndarray:
    """Dates as they are usually written, without a time of the day where all are at midnight."""
    if not np.issubdtype(times.dtype, np.datetime64):
        return times
    days = times.astype("datetime64[D]")
    return np.datetime_as_string(days if (days == times).all() else times.astype("datetime64[s]"))


def draw(path: Path, panel: PreparedPanel, ahead: Sequence[Ahead]) -> None:
    """Some series, evenly chosen: the end of what is known, the forecast and its central 90 %."""
    chosen = np.unique(np.linspace(0, len(ahead) - 1, SHOWN).round().astype(int))
    low, high = LEVELS.index(0.05), LEVELS.index(0.95)
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


def tell(panel: PreparedPanel, ahead: Sequence[Ahead], intervals: Intervals, kind: Kind) -> None:
    """What was forecast, and what its quantiles are made of."""
    first, horizon = ahead[0], len(ahead[0].point)
    say(
        f"{panel.panel.name}: {len(ahead):,} series, {horizon} steps from {spelled(first.times[:1])[0]}"
        + (" of the first" if len(ahead) > 1 else "")
    )
    if kind == "own":
        say("quantiles are those that the head predicts")
        return
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
        "quantiles": kind_of(config, len(ahead[0].point)),
        "first_time": str(spelled(ahead[0].times[:1])[0]),
        "last_time": str(spelled(ahead[0].times[-1:])[0]),
    }

"""Arrays in, figure out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure

from lmseq.errors import ErrorCurve, growth_phase
from lmseq.files import replacing


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=130)


def _axes(title: str, xlabel: str, ylabel: str):
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


class Curve(NamedTuple):
    """A line of a panel: y over x, with an interval from low to high where there is one.

    style: matplotlib's letters for marker and line, such as `o-`.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: str = "o-"


class Panel(NamedTuple):
    """One pair of axes: curves, levels drawn as horizontal lines, and which axes (`x`, `y`) are logarithmic.

    ticks: names for x = 0, 1, ... instead of numbers.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    levels: Mapping[str, float] = MappingProxyType({})
    log: str = ""
    ticks: Sequence[str] = ()


MOST_TICKS = 8  # places on a logarithmic axis that are named one by one


def draw_panels(panels: Sequence[Panel]) -> Figure:
    """Panels beside each other, at most three in a row."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(6.4, 4.6 * columns), 4.2 * rows), layout="constrained")
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(panel.title, fontsize="medium")
        axes.set_xlabel(panel.xlabel)
        axes.set_ylabel(panel.ylabel)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        _fill(axes, panel)
    return figure


def _fill(axes: Any, panel: Panel) -> None:
    """Draw what a panel holds."""
    for curve in panel.curves:
        x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
        bars = None
        if curve.low is not None:
            bars = np.maximum(np.stack([y - np.asarray(curve.low), np.asarray(curve.high) - y]), 0.0)
        axes.errorbar(
            x, y, bars, fmt=curve.style, markersize=4, linewidth=1.4, capsize=3, label=curve.label or None
        )
    for (label, level), style in zip(panel.levels.items(), ("--", ":", "-.", "-"), strict=False):
        axes.axhline(level, color="black", linestyle=style, linewidth=1.1, label=label)
    for axis in panel.log:
        getattr(axes, f"set_{axis}scale")("log")
        span = np.concatenate([np.asarray(getattr(curve, axis), float) for curve in panel.curves])
        if span.max() < 1000 * span.min():  # few decades: the figures themselves, not powers of ten
            getattr(axes, f"{axis}axis").set_major_formatter("{x:.6g}")
            getattr(axes, f"{axis}axis").set_minor_formatter("{x:.6g}" if span.max() < 8 * span.min() else "")
        places = np.unique(span)
        if axis == "x" and len(places) <= MOST_TICKS:
            axes.set_xticks(places, [f"{place:.6g}" for place in places])
            axes.set_xticks([], minor=True)
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), panel.ticks, fontsize="small")
    if len(panel.curves) + len(panel.levels) > 1:
        axes.legend(frameon=False, fontsize="small")


def learning_curve(records: list[dict[str, Any]], unigram_loss: float, title: str) -> Figure:
    """Training and validation loss (nats a token) by step, with the unigram model's as a line."""
    figure, axes = _axes(title, "step", "nats a token")
    for name, style in (("train_loss", {"alpha": 0.6}), ("valid_loss", {"marker": "o"})):
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, label=name.replace("_loss", ""), **style)
            axes.annotate(f"{losses[-1]:.3f}", (steps[-1], losses[-1]), (0, 6), textcoords="offset points")
    axes.axhline(unigram_loss, color="gray", linestyle="--", label="unigram")
    axes.legend(frameon=False)
    return figure


def horizon_curve(log_probs: Float[np.ndarray, "batch time"], unigram_loss: float, title: str) -> Figure:
    """k-step-ahead cross-entropy L(k), k = 1 ... K, of log-probabilities by origin (O, K).

    The band is one standard error of the mean over origins on either side.
    """
    figure, axes = _axes(title, "k, tokens ahead", "nats a token")
    num_origins, longest = log_probs.shape
    k, losses = np.arange(1, longest + 1), -log_probs.mean(axis=0)
    error = log_probs.std(axis=0) / np.sqrt(num_origins)
    axes.plot(k, losses, marker=".", label="model, on its own continuations")
    axes.fill_between(k, losses - error, losses + error, alpha=0.2, linewidth=0)
    axes.axhline(unigram_loss, color="gray", linestyle="--", label="unigram")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False)
    return figure


def orders(
    numbers: Sequence[int],
    losses: dict[str, Sequence[float]],
    num_bytes: Sequence[int],
    unit: str,
    title: str,
) -> Figure:
    """Loss of each split by order of a count model, and the bytes of its tables on an axis of their own."""
    figure, axes = _axes(title, "order: tokens in the longest n-grams", unit)
    storage = axes.twinx()
    storage.bar(numbers, np.asarray(num_bytes) / 1e6, color="0.88", width=0.5)
    storage.set_ylabel("megabytes of tables (bars)")
    storage.spines["top"].set_visible(False)
    axes.set_zorder(storage.get_zorder() + 1)  # lines before bars
    axes.patch.set_visible(False)
    for (split, values), offset in zip(losses.items(), (7, -14), strict=False):
        (line,) = axes.plot(numbers, values, marker="o", label=split)
        place, color = (numbers[-1], values[-1]), line.get_color()
        axes.annotate(f"{values[-1]:.4g}", place, (0, offset), textcoords="offset points", color=color)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.margins(y=0.15)
    axes.set_xticks(list(numbers))
    axes.legend(frameon=False, loc="upper center")
    return figure


def forecast(
    values: Float[np.ndarray, "time feature"],
    test_start: int,
    one_step: Float[np.ndarray, "test feature"],
    free: Float[np.ndarray, "test feature"],
    points: Float[np.ndarray, "origin horizon feature"],
    band: Float[np.ndarray, "2 steps feature"] | None,
    horizons: Sequence[int],
    title: str,
) -> Figure:
    """A series with its forecasts, of the first variable: above, one step ahead and free-running from the
    split, with a 90 % band of sampled paths if there is one; below, k steps ahead for each k.
    """
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1)
    # Enough of the past to see what was learned, and not so much that the forecasts become a smudge.
    shown = slice(max(0, test_start - MOST_POINTS // 2), test_start + MOST_POINTS)
    times = np.arange(len(values))
    for axes in (above, below):
        axes.plot(times[shown], values[shown, 0], color="0.7", linewidth=1, label="series")
        axes.axvline(test_start, color="0.4", linestyle=":", linewidth=1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    test = times[test_start : shown.stop]
    above.plot(test, one_step[: test.size, 0], linewidth=1, label="1 step ahead")
    above.plot(test, free[: test.size, 0], linewidth=1.4, label="free-running from the split")
    if band is not None:
        ahead = test_start + np.arange(band.shape[1])
        above.fill_between(ahead, band[0, :, 0], band[1, :, 0], alpha=0.25, label="90 % of sampled paths")
    for k in horizons:
        if k <= points.shape[1]:
            at = test_start + k - 1 + np.arange(len(points))
            kept = at < shown.stop
            below.plot(at[kept], points[kept, k - 1, 0], linewidth=1, label=f"{k} ahead")
    # A diverging forecast must not flatten the series that it is a forecast of.
    low, high = values[shown, 0].min(), values[shown, 0].max()
    margin = 0.5 * (high - low)
    for axes in (above, below):
        axes.set_ylim(low - margin, high + margin)
        axes.legend(frameon=False, ncols=4, fontsize="small", loc="upper left")
    above.set_title(title)
    below.set_xlabel("time step")
    return figure


MOST_POINTS = 240  # of the test part in a picture


def error_curves(
    curves: dict[str, ErrorCurve], model: str, oracle: Float[np.ndarray, "horizon"] | None, title: str
) -> Figure:
    """RMSE(k) of the model, its baselines and the oracle; the band holds 80 % of the model's origins."""
    figure, axes = _axes(title, "k, steps ahead on the model's own predictions", "RMSE, units of the series")
    k = np.arange(1, len(curves[model].rmse) + 1)
    axes.fill_between(
        k, curves[model].low, curves[model].high, alpha=0.15, linewidth=0, label="10 % to 90 % of origins"
    )
    for name, curve in curves.items():
        style = {"linewidth": 2.2} if name == model else {"linestyle": "--", "linewidth": 1}
        axes.plot(k, curve.rmse, label=name, **style)
    if oracle is not None:
        axes.plot(k, oracle, color="black", linestyle=":", linewidth=1.6, label="least possible")
    # Baselines may run off; the model, the mean and the oracle must stay in sight.
    seen = [curves[name].rmse.max() for name in (model, "mean") if np.isfinite(curves[name].rmse).all()]
    axes.set_ylim(0, 1.15 * max(seen) if seen else None)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False, fontsize="small")
    return figure


def recall(summary: dict[str, Any], cell: str, lags: Sequence[int], taus: Sequence[int]) -> Figure:
    """Share of wrong answers against the lag, for each window and the recurrent net, with 95 % intervals."""
    figure, axes = _axes(
        "recall of an item seen L steps ago", "L, steps between item and answer", "share of wrong answers"
    )
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, len(taus)))
    rows = [(f"tau_{tau}", f"window, tau = {tau}", colour) for tau, colour in zip(taus, colours, strict=True)]
    for name, label, colour in (*rows, (cell, f"hidden state, {cell}", "crimson")):
        keys = [f"error_{name}_lag_{lag}" for lag in lags]
        mean, low, high = (np.array([summary[key + end] for key in keys]) for end in ("", "_low", "_high"))
        bars = np.maximum(np.stack([mean - low, high - mean]), 0.0)
        width = 2.4 if name == cell else 1.2
        axes.errorbar(lags, mean, bars, marker="o", markersize=4, color=colour, linewidth=width, label=label)
    axes.axhline(summary["chance_error"], color="gray", linestyle="--", label="guessing")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def error_growth(curve: ErrorCurve, lyapunov: float, title: str) -> Figure:
    """Mean of ln |error| and ln RMSE k steps ahead, with a line of the Lyapunov exponent's slope."""
    figure, axes = _axes(
        title, "k, steps ahead on the model's own predictions", "natural logarithm of the error"
    )
    k, phase = np.arange(1, curve.rmse.size + 1), growth_phase(curve.log_error)
    axes.plot(k, curve.log_error, marker=".", label="mean of ln |error|")
    axes.plot(k, np.log(curve.rmse), marker=".", linewidth=1, label="ln RMSE, which large errors dominate")
    if k[phase].size:
        middle = curve.log_error[phase].mean() + lyapunov * (k[phase] - k[phase].mean())
        axes.plot(k[phase], middle, color="black", linestyle=":", linewidth=2, label=f"slope {lyapunov:.3f}")
        axes.set_xlim(0, min(curve.rmse.size, 4 * (phase.stop + 4)))
    axes.legend(frameon=False, fontsize="small")
    return figure


def order(summary: dict[str, Any], conditions: Sequence[str]) -> Figure:
    """Test loss under each condition, with 95 % intervals over seeds, and the orderless model's as a line."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    for axes, domain in zip(figure.subplots(1, 2), ("series", "text"), strict=True):
        keys = [f"{domain}_{condition.replace(' ', '_')}_loss" for condition in conditions]
        mean, low, high = (np.array([summary[key + end] for key in keys]) for end in ("", "_low", "_high"))
        bars = np.maximum(np.stack([mean - low, high - mean]), 0.0)
        axes.errorbar(np.arange(len(keys)), mean, bars, fmt="o", capsize=6)
        for x, y in enumerate(mean):
            axes.annotate(
                f"{y:.3f}", (x, y), (9, 0), textcoords="offset points", va="center", fontsize="small"
            )
        axes.axhline(
            summary[f"{domain}_orderless_loss"], color="gray", linestyle="--", label="orderless model"
        )
        axes.set_xticks(np.arange(len(keys)), [condition.replace(" ", "\n", 1) for condition in conditions])
        axes.set_xlim(-0.5, len(keys) - 0.3)
        axes.set_title(domain)
        axes.set_ylabel("test loss, nats")
        axes.grid(alpha=0.25, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", loc="center left")
    return figure


def objectives(records: list[dict[str, Any]], title: str) -> Figure:
    """RMSE(k) by training objective: the mean over seeds, and a band from the least to the largest."""
    figure, axes = _axes(title, "k, steps ahead on the model's own predictions", "RMSE, units of the series")
    for name in dict.fromkeys(record["objective"] for record in records):
        curves = np.array([record["rmse"] for record in records if record["objective"] == name])
        k = np.arange(1, curves.shape[1] + 1)
        axes.plot(k, curves.mean(axis=0), label=name.replace("_", " "))
        axes.fill_between(k, curves.min(axis=0), curves.max(axis=0), alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False, fontsize="small")
    return figure

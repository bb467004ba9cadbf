"""Arrays in, figure out.

Curves differ by marker or dashes, not by colour alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from scipy import special  # scipy.stats is slow to import

from lmseq.errors import ErrorCurve, growth_phase, log_size
from lmseq.files import replacing
from lmseq.labels import POINTS_AN_INCH, draw_head, label_axes, name_ticks, name_values


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=130)


# Okabe and Ito's colours, which readers of every kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1)))
SINGLE_WIDTH, PANEL_WIDTH, PANEL_HEIGHT = 6.4, 4.8, 3.9  # inches; the height without title and legend
MOST_BARS = 20  # intervals of a curve that are drawn as bars; more make a band
MOST_MARKERS = 24  # markers on a curve; of more points, some have none


class Curve(NamedTuple):
    """A line of a panel: y over x, with an interval from low to high where there is one.

    style: matplotlib's letters for colour, marker and line, such as `ko-`; by default a line with markers
    that the panel chooses, and of `-`, a line whose dashes it chooses. band: what the interval is, for
    the legend; it is then drawn as a band.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: str = ""
    band: str = ""


class Panel(NamedTuple):
    """One pair of axes: curves, levels drawn as horizontal lines, and which axes (`x`, `y`) are logarithmic.

    ticks: names for x = 0, 1, ... instead of numbers. places: numbers to name on the x axis, instead of those
    that suit the curves.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    levels: Mapping[str, float] = MappingProxyType({})
    log: str = ""
    ticks: Sequence[str] = ()
    places: Sequence[float] = ()


def draw_panels(panels: Sequence[Panel]) -> Figure:
    """Panels beside each other, at most three in a row."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    inches = SINGLE_WIDTH if columns == 1 else PANEL_WIDTH
    width = (0.82 if columns == 1 else 0.79) * inches * POINTS_AN_INCH  # of the axes alone, at least
    figure = Figure(figsize=(inches * columns, PANEL_HEIGHT * rows), layout="constrained")
    heads = np.zeros((rows, columns))
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        _prepare(axes)
        label_axes(axes, panel.xlabel, panel.ylabel, width, 0.8 * PANEL_HEIGHT * POINTS_AN_INCH)
        _fill(axes, panel, width)
        heads[divmod(number, columns)] = draw_head(axes, panel.title, width)
    # What stands above the axes takes nothing from them.
    figure.set_figheight(PANEL_HEIGHT * rows + heads.max(axis=1).sum() / POINTS_AN_INCH)
    return figure


def _prepare(axes: Axes) -> None:
    """A grid, no box, and the colours in their order."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_prop_cycle(color=COLOURS)


def _fill(axes: Axes, panel: Panel, width: float) -> None:
    """Draw the curves, their intervals and the levels, and name what stands along the axes."""
    for number, curve in enumerate(panel.curves):
        x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
        [line] = axes.plot(
            x, y, curve.style or f"{MARKERS[number % len(MARKERS)]}-", label=_shown(curve.label)
        )
        # Earlier markers are larger, so that points that coincide are all seen.
        size = max(4.5, 6.5 - 0.5 * number) if 1 < len(panel.curves) and x.size <= MOST_MARKERS else 4.5
        line.set(markersize=size, linewidth=1.5)
        if curve.style in ("", "-"):
            line.set_linestyle(DASHES[number % len(DASHES)])
        if not curve.style and x.size > MOST_MARKERS:
            line.set_markevery(_spread(x, panel.log))
        if curve.low is not None:
            low, high = np.asarray(curve.low, float), np.asarray(curve.high, float)
            _draw_interval(axes, line, low, high, curve.band)
    for (label, level), style in zip(panel.levels.items(), ("--", ":", "-.", "-"), strict=False):
        axes.axhline(level, color="black", linestyle=style, linewidth=1.2, label=_shown(label))
    xs = np.concatenate([np.zeros(0), *(np.asarray(curve.x, float) for curve in panel.curves)])
    ys = [np.asarray(curve.y, float) for curve in panel.curves]
    ys = np.concatenate([np.array([*panel.levels.values()], float), *ys])
    for axis, values in (("x", xs), ("y", ys)):
        if axis in panel.log and (values > 0).any():
            getattr(axes, f"set_{axis}scale")("log")
    name_values(axes, "y", ys, (), 0.75 * PANEL_HEIGHT * POINTS_AN_INCH)
    if panel.ticks:
        name_ticks(axes, panel.ticks, width)
    else:
        name_values(axes, "x", xs, panel.places, width)


def _shown(label: str) -> str | None:
    """The label for a legend; Matplotlib leaves out those that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label or None


def _draw_interval(axes: Axes, line: Any, low: np.ndarray, high: np.ndarray, band: str) -> None:
    """From low to high around a line: a bar at each point, or a band."""
    x, y = line.get_data()
    if band or x.size > MOST_BARS:
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0, label=band or None)
    else:
        bars = np.maximum(np.stack([y - low, high - y]), 0.0)
        axes.errorbar(x, y, bars, fmt="none", ecolor=line.get_color(), elinewidth=1.2, capsize=3)


def _spread(x: np.ndarray, log: str) -> list[int]:
    """Positions of points that lie about evenly along the axis, so that markers on them do not touch."""
    if "x" in log and (x > 0).all():
        wanted = np.geomspace(x[0], x[-1], MOST_MARKERS // 2)
    else:
        wanted = np.linspace(x[0], x[-1], MOST_MARKERS // 2)
    return np.unique(np.searchsorted(x, wanted * (1 - 1e-12)).clip(0, x.size - 1)).tolist()


def powers_of_two(most: int) -> list[float]:
    """1, 2, 4, ... up to `most`."""
    return [float(2**n) for n in range(most.bit_length())]


# Texts that models are trained on


def learning_curve(records: list[dict[str, Any]], unigram_loss: float, title: str) -> Figure:
    """The picture of `learning_panel`."""
    return draw_panels([learning_panel(records, unigram_loss, title)])


def learning_panel(records: list[dict[str, Any]], unigram_loss: float, title: str) -> Panel:
    """Training and validation loss (nats a token) by step, with the unigram model's as a line.

    The legend has the last value of each.
    """
    curves = []
    for name, style in (("train_loss", "-"), ("valid_loss", "o-")):
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        if points:
            steps, losses = zip(*points, strict=True)
            curves.append(
                Curve(f"{name.replace('_loss', '')}, last {losses[-1]:.3f}", steps, losses, style=style)
            )
    return Panel(title, "step", "nats a token", curves, {f"unigram, {unigram_loss:.3f}": unigram_loss})


def horizon_curve(log_probs: Float[np.ndarray, "origin horizon"], unigram_loss: float, title: str) -> Figure:
    """The picture of `horizon_panel`."""
    return draw_panels([horizon_panel(log_probs, unigram_loss, title)])


def horizon_panel(log_probs: Float[np.ndarray, "origin horizon"], unigram_loss: float, title: str) -> Panel:
    """k-step-ahead cross-entropy L(k), k = 1 ... K, of log-probabilities by origin (O, K).

    The band is a 95 % interval of the mean over origins, by Student's t; of one origin there is none.
    """
    num_origins, longest = log_probs.shape
    losses, bounds, band = -log_probs.mean(axis=0, dtype=np.float64), (None, None), ""
    if num_origins > 1:
        error = log_probs.std(axis=0, ddof=1, dtype=np.float64) / np.sqrt(num_origins)
        reach = special.stdtrit(num_origins - 1, 0.975) * error
        bounds, band = (
            (losses - reach, losses + reach),
            f"95 % interval of the mean over {num_origins} origins",
        )
    label = "model, on its own continuations"
    curve = Curve(label, np.arange(1, longest + 1), losses, *bounds, "o-", band)
    panel = Panel(title, "k, tokens ahead", "nats a token", [curve], {"unigram": unigram_loss}, "x")
    return panel._replace(places=powers_of_two(longest))


# Series


def forecast(
    values: Float[np.ndarray, "time feature"],
    test_start: int,
    one_step: Float[np.ndarray, "test feature"],
    free: Float[np.ndarray, "test feature"],
    points: Float[np.ndarray, "origin horizon feature"],
    band: Float[np.ndarray, "2 steps feature"] | None,
    horizons: Sequence[int],
    title: str,
    *,
    times: Shaped[np.ndarray, "time"] | None = None,
    ylabel: str = "",
) -> Figure:
    """A series with its forecasts, of the first variable: above, one step ahead and free-running from the
    split, with a 90 % band of sampled paths if there is one; below, k steps ahead for each k.

    times: of each value, datetime64 or numbers, for the axis; the steps are counted where there are none.
    """
    figure = Figure(figsize=(9.0, 6.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    # Enough of the past to see what was learned, and not so much that the forecasts become a smudge.
    most = MOST_POINTS if _is_smooth(values[:, 0]) else MOST_POINTS // 3
    shown = slice(max(0, test_start - most // 2), min(len(values), test_start + most))
    at = np.arange(len(values)) if times is None else times
    for axes, xlabel in ((above, ""), (below, "time step" if times is None else "time")):
        _prepare(axes)
        label_axes(axes, xlabel, ylabel, FORECAST_WIDTH, FORECAST_WIDTH / 3)
        axes.plot(at[shown], values[shown, 0], color="0.6", linewidth=1.2, label="series")
        axes.axvline(at[test_start], color="0.3", linestyle=":", linewidth=1.2)
    test = at[test_start : shown.stop]
    above.plot(test, one_step[: test.size, 0], linewidth=1.2, label="1 step ahead")
    above.plot(test, free[: test.size, 0], "--", linewidth=1.5, label="free-running from the split")
    if band is not None:
        kept = min(band.shape[1], test.size)
        edges = band[:, :kept, 0]
        above.fill_between(
            test[:kept], *edges, color=COLOURS[1], alpha=0.2, linewidth=0, label="90 % of sampled paths"
        )
    for k, dashes in zip((k for k in horizons if k <= points.shape[1]), DASHES, strict=False):
        kept = max(0, min(len(points), shown.stop - (test_start + k - 1)))
        ahead = at[test_start + k - 1 :][:kept]
        below.plot(ahead, points[:kept, k - 1, 0], linestyle=dashes, linewidth=1.5, label=f"{k} ahead")
    # A diverging forecast must not flatten the series that it is a forecast of.
    low, high = values[shown, 0].min(), values[shown, 0].max()
    margin = 0.25 * (high - low) or 1.0
    for axes, text in ((above, title), (below, "")):
        axes.set_ylim(low - margin, high + margin)
        draw_head(axes, text, FORECAST_WIDTH)
    if np.issubdtype(at.dtype, np.datetime64):
        locator = AutoDateLocator(minticks=4, maxticks=9)
        below.xaxis.set_major_locator(locator)
        below.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


FORECAST_WIDTH = 570.0  # points of the axes
MOST_POINTS = 240  # of the test part in a picture


def _is_smooth(values: Float[np.ndarray, "time"]) -> bool:
    """Whether a step is small against the spread of the values."""
    return bool(np.abs(np.diff(values)).mean() <= 0.6 * values.std())


def error_curves(
    curves: dict[str, ErrorCurve], model: str, oracle: Float[np.ndarray, "horizon"] | None, title: str
) -> Figure:
    """The picture of `error_panel`, cut where the model, the mean and the oracle stay in sight."""
    figure = draw_panels([error_panel(curves, model, oracle, title)])
    # Baselines may run off.
    seen = [curves[name].rmse.max() for name in (model, "mean") if np.isfinite(curves[name].rmse).all()]
    figure.axes[0].set_ylim(0, 1.15 * max(seen) or 1.0 if seen else None)
    figure.axes[0].lines[0].set_linewidth(2.4)
    return figure


def error_panel(
    curves: dict[str, ErrorCurve], model: str, oracle: Float[np.ndarray, "horizon"] | None, title: str
) -> Panel:
    """RMSE(k) of the model, its baselines and the oracle; the band holds 80 % of the model's origins."""
    longest = len(curves[model].rmse)
    k = np.arange(1, longest + 1)
    drawn = [Curve(name, k, curve.rmse) for name, curve in curves.items() if name != model]
    bounds = (curves[model].low, curves[model].high)
    drawn.insert(0, Curve(model, k, curves[model].rmse, *bounds, band=f"{model}, 10 % to 90 % of origins"))
    if oracle is not None:
        drawn.append(Curve("least possible", k, oracle, style="k:"))
    return Panel(title, AHEAD, "RMSE, units of the series", drawn, log="x", places=powers_of_two(longest))


AHEAD = "k, steps ahead on the model's own predictions"


def error_growth(curve: ErrorCurve, lyapunov: float, title: str) -> Figure:
    """Mean of ln |error| and ln RMSE k steps ahead, with a line of the Lyapunov exponent's slope."""
    k, phase = np.arange(1, curve.rmse.size + 1), growth_phase(curve.log_error)
    drawn = [
        Curve("mean of ln |error|", k, curve.log_error),
        Curve("ln RMSE, which large errors dominate", k, log_size(curve.rmse)),
    ]
    if k[phase].size:
        middle = curve.log_error[phase].mean() + lyapunov * (k[phase] - k[phase].mean())
        drawn.append(Curve(f"slope {lyapunov:.3f}, the Lyapunov exponent", k[phase], middle, style="k:"))
    figure = draw_panels([Panel(title, AHEAD, "natural logarithm of the error", drawn)])
    if k[phase].size:
        figure.axes[0].set_xlim(0, min(curve.rmse.size, 4 * (phase.stop + 4)))
        figure.axes[0].lines[-1].set_linewidth(2.4)
    return figure

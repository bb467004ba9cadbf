"""Texts of a figure: titles, legends and names along axes that neither touch nor leave the figure.

Legends stand above the axes, so that they cover no data. Texts are drawn as they are: a `$` in a file's name
begins no formula. Only what the font has no glyph for is replaced. Widths are in points.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator, ScalarFormatter

TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 10.5, 10.0, 9.0  # points
POINTS_AN_INCH = 72.0
HANDLE_WIDTH = 40.0  # of a legend's entry without its text
MOST_CHARACTERS = 400  # of a text
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
NARROWEST = 0.25  # width of the narrowest letters, of the font's size
MOST_TICKS = 8  # numbers on an axis
MOST_NAMES = 24  # names under an axis


def text_width(text: str, size: float) -> float:
    """Points that a line of text is wide."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def drawable(text: str) -> str:
    """The text with what the font cannot draw replaced, and cut with an ellipsis if it is endless."""
    font = get_font(findfont(FontProperties()))
    text = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    drawn = (c if c == "\n" or font.get_char_index(ord(c)) else UNKNOWN for c in text.replace("\t", " "))
    return "".join(drawn)


def wrapped(text: str, width: float, size: float, most_lines: int = 2) -> str:
    """The text in lines that are at most `width` points wide; cut with an ellipsis if these are too many."""
    text = drawable(text)
    if all(text_width(line, size) <= width for line in text.split("\n")):
        return text
    most = int(width / (NARROWEST * size)) + 2  # no line of more characters fits
    for columns in range(min(len(text), most), 1, -1):
        lines = [part for line in text.split("\n") for part in textwrap.wrap(line, columns)]
        if len(lines) > most_lines:
            lines = [*lines[: most_lines - 1], lines[most_lines - 1][: columns - 1] + "…"]
        if all(text_width(line, size) <= width for line in lines):
            return "\n".join(lines)
    return "…"


def label_axes(axes: Axes, xlabel: str, ylabel: str, width: float, height: float) -> None:
    """Labels of axes of about this size, in points."""
    axes.set_xlabel(wrapped(xlabel, width, LABEL_SIZE), fontsize=LABEL_SIZE, parse_math=False)
    axes.set_ylabel(wrapped(ylabel, height, LABEL_SIZE), fontsize=LABEL_SIZE, parse_math=False)
    axes.tick_params(which="both", labelsize=SMALL_SIZE)


def draw_head(axes: Axes, title: str, width: float) -> float:
    """The legend above the axes and the title above the legend; returns the points that they are high."""
    height = 0.0
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        labels = [wrapped(label, width - HANDLE_WIDTH, SMALL_SIZE) for label in labels]
        longest = max(text_width(line, SMALL_SIZE) for label in labels for line in label.split("\n"))
        legend = axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=int(np.clip(width // (longest + HANDLE_WIDTH), 1, len(labels))),
            frameon=False,
            fontsize=SMALL_SIZE,
            borderaxespad=0.2,
            borderpad=0.1,
            columnspacing=1.2,
            handlelength=2.4,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        height = legend.get_window_extent().height * POINTS_AN_INCH / axes.figure.dpi + 4.0
    lines = wrapped(title, width, TITLE_SIZE, 4)
    axes.set_title(lines, loc="left", fontsize=TITLE_SIZE, pad=6.0 + height, parse_math=False)
    return height + 1.3 * TITLE_SIZE * (lines.count("\n") + 1)


def name_values(
    axes: Axes, axis: str, values: Float[np.ndarray, "value"], places: Sequence[float | int], length: float
) -> None:
    """Name numbers along an axis, `x` or `y`: places given, few values of x, or round ones of a log scale.

    length: of the axis, in points. Otherwise the axis keeps what it has.
    """
    log = getattr(axes, f"get_{axis}scale")() == "log"
    span = np.unique(values[np.isfinite(values) & ((values > 0) | (not log))])
    if not span.size:
        return
    if not places and axis == "x" and span.size <= MOST_TICKS:
        places = span.tolist()
    if not places and log:
        places = log_places(float(span[0]), float(span[-1]))
    if places:
        names = [f"{place:.6g}" for place in places]
        halves = [text_width(name, SMALL_SIZE) / 2 if axis == "x" else 0.7 * SMALL_SIZE for name in names]
        ends = (*getattr(axes, f"get_{axis}lim")(), *places)  # the ticks may make the axis longer
        at, ends = (np.log(each) if log else np.asarray(each, float) for each in (places, ends))
        low, high = ends.min(), ends.max()
        names = _apart(names, (at - low) / (high - low) * length, halves)
        getattr(axes, f"set_{axis}ticks")(places, names)
        getattr(axes, f"set_{axis}ticks")([], minor=True)
    elif not log:
        scale = getattr(axes, f"{axis}axis")
        if axis == "x":
            scale.set_major_locator(MaxNLocator(int(length / 45), integer=bool((span == span.round()).all())))
        # An offset such as 1e6 would stand where the legend does.
        plain = 1e-3 < np.abs(span).max() < 1e7
        scale.set_major_formatter(ScalarFormatter(useOffset=False) if plain else "{x:.6g}")


def log_places(low: float, high: float) -> list[float]:
    """At most MOST_TICKS round numbers from low to high; none for three decades or more."""
    if high >= 1000 * low:
        return []
    if high <= 1.02 * low:
        return [low]
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    candidates = [np.outer(decades, digits).ravel() for digits in DIGITS]
    for places in (*candidates, MaxNLocator(5).tick_values(low, high)):
        places = places[(places >= low * 0.98) & (places <= high * 1.02)]
        if 3 <= places.size <= MOST_TICKS:
            return places.tolist()
    return [low, high]


DIGITS = (range(1, 10), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))  # of numbers on a log scale


def _apart(names: Sequence[str], centres: Float[np.ndarray, "place"], halves: Sequence[float]) -> list[str]:
    """The names along an axis, each left out ("") that would touch the one before it; all in points."""
    kept, free = [], -np.inf
    for name, centre, half in zip(names, centres, halves, strict=True):
        fits = centre - half - 2.0 >= free
        kept.append(name if fits else "")
        free = centre + half + 2.0 if fits else free
    return kept


def name_ticks(axes: Axes, names: Sequence[str], width: float) -> None:
    """Names at 0, 1, ...: wrapped to the room that each has, or upright where that is little."""
    room, step = 0.85 * width / len(names), -(-len(names) // MOST_NAMES)
    upright = any(text_width(word, SMALL_SIZE) > room for name in names for word in name.split())
    if upright:
        shown = [wrapped(name.replace("\n", " "), 130.0, SMALL_SIZE, 1) for name in names]
    else:
        shown = [wrapped(name, room, SMALL_SIZE, 3) for name in names]
    places = range(0, len(names), step)
    rotation = 90 if upright else 0
    axes.set_xticks(places, shown[::step], fontsize=SMALL_SIZE, rotation=rotation, parse_math=False)
    axes.set_xlim(-0.4, len(names) - 0.6)

"""Rows of runs as curves: a column against another, means over seeds with their intervals."""

import math
from collections.abc import Sequence
from typing import Any

from experiments.ablation.tables import Row, is_number, told
from experiments.frame.intervals import estimate
from lmseq.plotting import Curve, Panel

WIDE = 8  # from this ratio of the largest x to the least, the axis is logarithmic
MOST_CURVES = 20


def panel_of(rows: Sequence[Row], x: str, y: str, by: Sequence[str], log: str | None = None) -> Panel | None:
    """y over x, a curve for each combination of the columns `by`; None where no row has both.

    An x that is not a number everywhere is a category. `log`: the logarithmic axes; None: x if it is wide.
    """
    rows = [row for row in rows if row.get(x) is not None and is_number(row.get(y))]
    rows = [row for row in rows if math.isfinite(row[y])]
    if not rows:
        return None
    numeric = all(is_number(row[x]) for row in rows)
    places = list(dict.fromkeys(row[x] for row in rows))
    places = sorted(places) if numeric else places
    at = {place: place if numeric else number for number, place in enumerate(places)}
    if log is None:
        log = "x" if numeric and places[0] > 0 and places[-1] >= WIDE * places[0] else ""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    curves = [
        curve_of(", ".join(f"{name} = {told(v)}" for name, v in zip(by, key, strict=True)), group, x, y, at)
        for key, group in list(groups.items())[:MOST_CURVES]
    ]
    ticks = () if numeric else [str(place) for place in places]
    return Panel(f"{y}, mean and 95 % interval", x, y, curves, log=log, ticks=ticks)


def curve_of(label: str, rows: Sequence[Row], x: str, y: str, at: dict[Any, float]) -> Curve:
    """Means of y at each x that the rows have, and their intervals where there are several rows."""
    there = [place for place in at if any(row[x] == place for row in rows)]
    found = [estimate([row[y] for row in rows if row[x] == place]) for place in there]
    low = [each.mean if math.isnan(each.low) else each.low for each in found]
    high = [each.mean if math.isnan(each.high) else each.high for each in found]
    several = any(not math.isnan(each.low) for each in found)
    bounds = (low, high) if several else (None, None)
    return Curve(label, [at[place] for place in there], [each.mean for each in found], *bounds)


def panels_of(rows: Sequence[Row], names: Sequence[str], metrics: Sequence[str]) -> list[Panel]:
    """A panel for each metric that is a number, over the first setting that varies and is one."""
    values = {name: {row[name] for row in rows if row[name] is not None} for name in names}
    varied = [name for name in names if len(values[name]) > 1] or list(names[:1])
    x = next((name for name in varied if all(map(is_number, values[name]))), varied[0])
    by = [name for name in varied if name != x]
    panels = [panel_of(rows, x, metric, by) for metric in metrics]
    return [panel for panel in panels if panel is not None]

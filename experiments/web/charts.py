"""Panels as a page draws them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmseq.plotting import Panel

MOST_POINTS = 400  # of a curve


def chart_of(panel: Panel) -> dict[str, Any]:
    """A panel as JSON; of long curves, points spread evenly, the last among them."""
    return {
        "title": panel.title,
        "xlabel": panel.xlabel,
        "ylabel": panel.ylabel,
        "log": panel.log,
        "ticks": list(panel.ticks),
        "levels": [[label, float(level)] for label, level in panel.levels.items()],
        "curves": [
            {
                "label": curve.label,
                "band": curve.band,
                **{
                    name: thinned(values)
                    for name in ("x", "y", "low", "high")
                    if (values := getattr(curve, name)) is not None
                },
            }
            for curve in panel.curves
        ],
    }


def thinned(values: Sequence[float]) -> list[float | None]:
    """At most MOST_POINTS numbers to six digits, the first and the last among them; None for no number."""
    found = np.asarray(values, np.float64)
    if found.size > MOST_POINTS:
        found = found[np.linspace(0, found.size - 1, MOST_POINTS).round().astype(int)]
    return [short(value) for value in found.tolist()]


def short(value: float) -> float | None:
    """A number to six digits; None where it is none."""
    return float(f"{value:.6g}") if math.isfinite(value) else None

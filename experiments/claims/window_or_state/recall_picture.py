"""The picture of delayed recall: a summary in, a panel out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmseq.plotting import Curve, Panel


def panel(summary: dict[str, Any], cell: str, lags: Sequence[int], taus: Sequence[int]) -> Panel:
    """Share of wrong answers by lag, for each window and the recurrent net, with 95 % intervals.

    Curves that coincide, as those of all windows too short, stand a little beside each other.
    """
    names = [(f"tau_{tau}", f"window, tau = {tau}") for tau in taus] + [(cell, f"hidden state, {cell}")]
    curves = []
    for name, label in names:
        keys = [f"error_{name}_lag_{lag}" for lag in lags]
        mean, low, high = (np.array([summary[key + end] for key in keys]) for end in ("", "_low", "_high"))
        shift = 0.06 * (len(curves) - (len(names) - 1) / 2)
        curves.append(Curve(label, np.arange(len(lags)) + shift, mean, low, high))
    return Panel(
        "recall of an item seen L steps ago",
        "L, steps between item and answer",
        "share of wrong answers",
        curves,
        {"guessing": summary["chance_error"]},
        ticks=[str(lag) for lag in lags],
    )

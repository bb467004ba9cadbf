"""The picture of a calibration: arrays in, figure out."""

import numpy as np
from matplotlib.figure import Figure

from experiments.frame.intervals import Interval
from lmseq.plotting import Curve, Panel, draw_panels
from lmseq.reliability import Reliability

FEWEST = 20  # events of a bin that is drawn: the share of fewer says little


def draw_calibration(
    every: Reliability,
    likeliest: Reliability,
    lengths: list[int],
    entropy: list[Interval],
    loss: list[Interval],
) -> Figure:
    """How often what has a probability comes, and entropies of continuations beside losses by distance."""
    curves = []
    for label, of in (("every symbol", every), ("the likeliest symbol", likeliest)):
        some = of.number >= FEWEST
        curves.append(Curve(label, of.expected[some] / of.number[some], of.observed[some] / of.number[some]))
    ideal = np.array([0.0, 1.0])
    reliable = Panel(
        "how often it comes",
        "probability that the model gives",
        "share that comes",
        [*curves, Curve("calibrated", ideal, ideal, style="k:")],
    )
    ahead = [
        Curve(label, lengths, *np.array(of).T, band="95 %")
        for label, of in (("entropy after its own words", entropy), ("loss on the text", loss))
    ]
    title, unit = "what it goes on with", "nats a token"
    return draw_panels([reliable, Panel(title, "tokens from the origin, up to", unit, ahead, log="x")])

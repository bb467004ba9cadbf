"""The picture of a count model's orders: arrays in, figure out."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lmseq.plotting import Curve, Panel, draw_panels


def draw_orders(
    orders: Sequence[int],
    losses: dict[str, Sequence[float]],
    num_bytes: Sequence[int],
    unit: str,
    title: str,
) -> Figure:
    """Loss of each split by order of a count model, and the bytes of its tables on an axis of their own.

    The legend has the loss at the largest order.
    """
    curves = [
        Curve(f"{split}, {values[-1]:.4g} at order {orders[-1]}", orders, values)
        for split, values in losses.items()
    ]
    values = np.concatenate([np.asarray(values, float) for values in losses.values()])
    wide = values.max() > 4 * values.min() > 0
    panel = Panel(title, "order: tokens in the longest n-grams", unit, curves, log="y" if wide else "")
    figure = draw_panels([panel._replace(places=list(orders))])
    [axes] = figure.axes
    storage = axes.twinx()
    storage.bar(orders, np.asarray(num_bytes) / 1e6, color="0.88", width=0.5)
    storage.set_ylabel("megabytes of tables (bars)")
    storage.tick_params(labelsize="small")
    storage.spines["top"].set_visible(False)
    axes.set_zorder(storage.get_zorder() + 1)  # lines before bars
    axes.patch.set_visible(False)
    return figure

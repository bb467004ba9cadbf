"""What can be seen of a figure: its texts where they are drawn, and the data of its lines."""

from itertools import combinations
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def drawn(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that a renderer is asked to draw, and the pixels that it covers."""
    canvas, seen = FigureCanvasAgg(figure), {}
    canvas.draw()
    draw = Text.draw

    def note(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            seen[id(text)] = text
        draw(text, renderer)

    with mock.patch.object(Text, "draw", note):
        canvas.draw()
    renderer = canvas.get_renderer()
    return [(text.get_text(), text.get_window_extent(renderer)) for text in seen.values()]


def covers(one: Bbox, other: Bbox) -> bool:
    """Whether two boxes share more than a pixel's breadth."""
    both = Bbox.intersection(one, other)
    return both is not None and both.width > 1.0 and both.height > 1.0


def faults(figure: Figure) -> list[str]:
    """What is wrong with a figure's texts: that they touch, reach over the data or leave the picture."""
    texts = drawn(figure)
    found = [f"{a!r} touches {b!r}" for (a, box), (b, other) in combinations(texts, 2) if covers(box, other)]
    for text, box in texts:
        found += [f"{text!r} reaches over the data" for axes in figure.axes if covers(box, axes.bbox)]
        inside = figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1
        inside = inside and figure.bbox.y0 - 1 <= box.y0 and box.y1 <= figure.bbox.y1 + 1
        found += [] if inside else [f"{text!r} leaves the picture"]
    return found + [f"axes of {axes.bbox.width:.0f} pixels" for axes in figure.axes if axes.bbox.width < 150]


def said(figure: Figure) -> str:
    """All texts of a figure, one a line; those that were wrapped on one line."""
    return "\n".join(text.replace("\n", " ") for text, _ in drawn(figure))


def lines_of(figure: Figure, axes: int = 0) -> dict[str, np.ndarray]:
    """The data of each line of some axes, (points, 2), by its label up to a comma."""
    lines = figure.axes[axes].get_lines()
    return {line.get_label().split(",")[0]: np.column_stack(line.get_data()) for line in lines}


def is_drawn_on(path: Any) -> None:
    """Assert that a PNG shows axes with something coloured between white margins."""
    from PIL import Image

    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    coloured = (pixels.max(axis=-1) - pixels.min(axis=-1)) > 60
    assert coloured.any(), f"{path} shows no curve"
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 255).all(), f"something reaches over the edge of {path}"

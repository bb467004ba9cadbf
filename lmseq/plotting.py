"""Arrays in, figure out."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG under a temporary name, then rename."""
    temporary = path.with_name(f".{path.stem}.tmp.png")
    try:
        figure.savefig(temporary, dpi=130)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _axes(title: str, xlabel: str, ylabel: str):
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


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

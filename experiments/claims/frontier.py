"""The best models of each size: what remains of many when no smaller one is as good."""

from collections.abc import Sequence

import numpy as np


def frontier(sizes: Sequence[float], losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The models that none of at most their size is as good as: sizes ascending, losses falling."""
    order = np.lexsort((losses, sizes))
    sizes, losses = np.asarray(sizes, float)[order], np.asarray(losses, float)[order]
    before = np.minimum.accumulate(np.append(np.inf, losses))[:-1]
    kept = losses < before
    return sizes[kept], losses[kept]


def least_loss(sizes: np.ndarray, losses: np.ndarray, at: float) -> float:
    """The loss of a frontier at so many bytes, on lines in ln bytes; infinite below the smallest model."""
    return float(np.interp(np.log(at), np.log(sizes), losses)) if at >= sizes[0] else np.inf


def bytes_for(sizes: np.ndarray, losses: np.ndarray, loss: float) -> float | None:
    """The bytes at which a frontier reaches a loss; None where it never does."""
    if loss < losses[-1]:
        return None
    return float(np.exp(np.interp(-loss, -losses, np.log(sizes))))

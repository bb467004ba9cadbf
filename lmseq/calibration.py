"""How good forecasts of distributions are: pinball loss, CRPS, coverage. NumPy, float64."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import special


def pinball(
    quantiles: Float[np.ndarray, "*dims level"],
    targets: Float[np.ndarray, "*dims"],
    levels: Sequence[float],
) -> Float[np.ndarray, "*dims level"]:
    """Loss of each quantile (..., Q) at its level, in the units of targets (...): Koenker and Bassett 1978.

    Its mean is least for the true quantile; at level 0.5 it is half the absolute error.
    """
    above, level = targets[..., None] - quantiles, np.asarray(levels, np.float64)
    return np.maximum(level * above, (level - 1.0) * above)


def crps_normal(
    mean: Float[np.ndarray, "*dims"],
    scale: Float[np.ndarray, "*dims"],
    targets: Float[np.ndarray, "*dims"],
) -> Float[np.ndarray, "*dims"]:
    """Continuous ranked probability score of normal distributions, in closed form.

    In the units of the targets; less is better (Gneiting and Raftery 2007).
    """
    z = (targets - mean) / scale
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    return scale * (z * (2.0 * special.ndtr(z) - 1.0) + 2.0 * density - 1.0 / np.sqrt(np.pi))


def crps_samples(
    samples: Float[np.ndarray, "*dims sample"], targets: Float[np.ndarray, "*dims"]
) -> Float[np.ndarray, "*dims"]:
    """The same score of the empirical distribution of S samples: E |X - y| - E |X - X'| / 2."""
    ordered, number = np.sort(np.asarray(samples, np.float64), axis=-1), samples.shape[-1]
    # Sorted, the sum over all pairs is a weighted sum: no S^2 numbers.
    weights = 2.0 * np.arange(number) + 1.0 - number
    spread = 2.0 * (ordered * weights).sum(axis=-1) / number**2
    return np.abs(ordered - targets[..., None]).mean(axis=-1) - spread / 2.0


def coverage(
    low: Float[np.ndarray, "*dims"], high: Float[np.ndarray, "*dims"], targets: Float[np.ndarray, "*dims"]
) -> float:
    """The share of targets from low to high, both included; NaN targets do not count. NaN where none does."""
    known = ~np.isnan(targets)
    inside = (low <= targets) & (targets <= high) & known
    return float(inside.sum() / known.sum()) if known.any() else float("nan")

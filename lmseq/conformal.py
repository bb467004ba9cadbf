"""Intervals around point forecasts from errors that were made before: split conformal, by horizon.

Scores are signed errors (y - f) / u of forecasts of a part that the model was not fitted to, u being a unit
of each series, so that series of any size calibrate each other. If a new error is exchangeable with M scores
of its horizon, it lies below the ceil((M + 1) q)-th smallest of them with probability at least q (Vovk et al.
2005; Lei et al. 2018). No distribution is assumed.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

LEVELS = (0.025, 0.05, 0.1, 0.5, 0.9, 0.95, 0.975)


def score_quantiles(
    scores: Float[np.ndarray, "score horizon"], levels: Sequence[float] = LEVELS
) -> Float[np.ndarray, "level horizon"]:
    """The quantile of the scores (M, K) at each level and horizon, for forecasts to come, float64 (L, K).

    Above a half it is the ceil((M + 1) q)-th smallest, below a half the floor((M + 1) q)-th, so that both
    sides err outwards; at a half it is nothing, the forecast itself. Where too few scores are known for a
    level, the furthest of them stands. NaN scores are left out; NaN where none is known.
    """
    found = np.full((len(levels), scores.shape[1]), np.nan)
    for k, column in enumerate(scores.T):
        known = np.sort(column[~np.isnan(column)])
        for place, level in enumerate(levels):
            if level == 0.5:
                found[place, k] = 0.0
            elif known.size:
                rank = _rank(level, known.size)
                found[place, k] = known[min(max(rank, 1), known.size) - 1]
    return found


def _rank(level: float, num_scores: int) -> int:
    """The place of a level among sorted scores, from 1; rounding of the product does not count."""
    place = round((num_scores + 1) * level, 9)
    return math.ceil(place) if level > 0.5 else math.floor(place)


def least_scores(level: float) -> int:
    """How many scores a level needs so that the furthest of them is not all that can be said."""
    tail = min(level, 1 - level)
    return math.ceil(round(1 / tail, 9)) - 1

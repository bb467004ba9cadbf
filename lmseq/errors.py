"""Errors of forecasts k steps ahead, and how they grow."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class ErrorCurve(NamedTuple):
    """Errors k = 1 ... K steps ahead over all origins, in the units of the series, float64 (K,).

    Of several variables, squares and magnitudes are averaged over them too. Targets that are NaN, values that
    were missing, are left out; NaN where none is left. low and high are the 10 % and 90 % quantiles of the
    origins' root mean square over variables: the spread. log_error is the mean of
    ln |error|, which grows by the Lyapunov exponent a step in a chaotic system (the RMSE grows faster).
    """

    rmse: Float[np.ndarray, "horizon"]
    mae: Float[np.ndarray, "horizon"]
    low: Float[np.ndarray, "horizon"]
    high: Float[np.ndarray, "horizon"]
    log_error: Float[np.ndarray, "horizon"]


def error_curve(
    points: Float[np.ndarray, "origin horizon feature"], targets: Float[np.ndarray, "origin horizon feature"]
) -> ErrorCurve:
    """Summaries over origins of points minus targets, both in the units of the series."""
    errors = np.asarray(points, np.float64) - targets
    counted = ~np.isnan(targets)

    def mean(values: Float[np.ndarray, "origin horizon feature"], axis: tuple[int, ...]) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(counted, values, 0.0).sum(axis=axis) / counted.sum(axis=axis)

    unknown = ~counted.any(axis=(0, 2))  # horizons at which nothing came
    spread = np.where(unknown, 0.0, np.sqrt(mean(errors**2, (2,))))
    with np.errstate(invalid="ignore"):  # of forecasts that run off to infinity
        low, high = np.where(unknown, np.nan, np.nanquantile(spread, [0.1, 0.9], axis=0))
    logs = mean(log_size(errors), (0, 2))
    rmse, mae = np.sqrt(mean(errors**2, (0, 2))), mean(np.abs(errors), (0, 2))
    return ErrorCurve(rmse, mae, low, high, logs)


def log_size(errors: Float[np.ndarray, "*dims"]) -> Float[np.ndarray, "*dims"]:
    """ln |error|; an error of nothing at all has the logarithm of the smallest number, LOG_OF_NOTHING."""
    return np.log(np.maximum(np.abs(errors), np.finfo(np.float64).tiny))


LOG_OF_NOTHING = float(np.log(np.finfo(np.float64).tiny))


def growth_phase(log_error: Float[np.ndarray, "horizon"]) -> slice:
    """The steps of exponential growth, as positions 0 ... K - 1 of the mean of ln |error|; may be empty.

    The phase begins at k = 2, when the first error has been through the map once, and ends GROWTH_MARGIN
    below the level at which errors saturate (the mean of the curve's last quarter).
    """
    saturated = log_error[-max(1, log_error.size // 4) :].mean()
    grown = np.flatnonzero(log_error >= saturated - GROWTH_MARGIN)
    return slice(1, max(1, int(grown[0]) if grown.size else log_error.size))


def growth_per_step(log_curve: Float[np.ndarray, "horizon"], phase: slice) -> float | None:
    """Least-squares slope of a logarithm over the phase, nats a step; None of fewer than three points.

    Then the model is too crude to see the growth, or nothing grows. None too where an error of the phase is
    nothing at all, infinite or unknown. Of the mean of ln |error| it is the
    Lyapunov exponent of a chaotic system; of ln RMSE it is larger, as large errors dominate that.
    """
    steps, logs = np.arange(log_curve.size)[phase], log_curve[phase]
    if steps.size < 3 or not (np.isfinite(logs) & (logs > LOG_OF_NOTHING)).all():
        return None
    return float(np.polyfit(steps, logs, 1)[0])


GROWTH_MARGIN = 1.5


def last_horizon_below(curve: Float[np.ndarray, "horizon"], level: Float[np.ndarray, "horizon"]) -> int:
    """The last k such that the curve is below the level at 1 ... k; 0 where it is not even at 1."""
    above = np.flatnonzero(~(curve < level))
    return int(above[0]) if above.size else curve.size

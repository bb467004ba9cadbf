"""How forecasts of many series are judged: free of their units, and beside forecasts that anyone can make.

Every figure is a mean over series of means over the horizon, so that long series weigh no more than short
ones. Values that are not known, NaN, are left out. The definitions are those of the M competitions
(Makridakis et al. 2020; Hyndman and Koehler 2006).
"""

import math

import numpy as np
from jaxtyping import Float

Known = Float[np.ndarray, "*dims"]


def smape(forecasts: Known, actual: Known) -> Known:
    """Symmetric absolute percentage errors 200 |y - f| / (|y| + |f|), 0 to 200; 0 where both are 0."""
    size, distance = np.abs(actual) + np.abs(forecasts), np.abs(actual - forecasts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size == 0, 0.0, 200.0 * distance / size)


def seasonal_scale(train: Float[np.ndarray, "time feature"], period: int) -> Float[np.ndarray, "feature"]:
    """mean_t |y_t - y_{t-m}| of a training part (T, D): the unit of the scaled error MASE.

    m is the period, or 1 where there is none or the part is no longer than it. NaN where no pair is known.
    """
    lag = period if 1 < period < len(train) else 1
    return mean_known(np.abs(train[lag:] - train[:-lag]), 0)


def mean_known(
    values: Known, axis: int | tuple[int, ...] | None = None
) -> Float[np.ndarray, "..."] | np.floating:
    """The mean over some axes of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis)


# The benchmark of the M competitions


SEASONAL_QUANTILE = 1.645  # of the normal: a season is there with 90 % confidence on both sides


def is_seasonal(values: Float[np.ndarray, "time"], period: int) -> bool:
    """The test of the M competitions: is the autocorrelation at the period beyond what chance allows?

    |r_m| > 1.645 sqrt((1 + 2 sum_{i<m} r_i^2) / T), of at least three periods.
    """
    length = len(values)
    if period < 2 or length < 3 * period:
        return False
    centred = values - values.mean()
    size = float(centred @ centred)
    if size == 0:
        return False
    lags = np.array([centred[lag:] @ centred[:-lag] for lag in range(1, period + 1)]) / size
    limit = SEASONAL_QUANTILE * math.sqrt((1 + 2 * float(lags[:-1] @ lags[:-1])) / length)
    return bool(abs(lags[-1]) > limit)


def seasonal_factors(values: Float[np.ndarray, "time"], period: int) -> Float[np.ndarray, "period"]:
    """Multiplicative seasonal factors, of mean 1, by the classical decomposition; entry 0 is of values[0].

    The trend is a centred moving average over one period.
    """
    half = period // 2
    weights = np.ones(period) / period
    if period % 2 == 0:
        weights = np.concatenate([[0.5], np.ones(period - 1), [0.5]]) / period
    trend = np.convolve(values, weights, mode="valid")
    ratios = values[half : half + len(trend)] / trend
    places = (half + np.arange(len(trend))) % period
    means = np.bincount(places, ratios, period) / np.bincount(places, minlength=period)
    return means / means.mean()


def naive2(train: Float[np.ndarray, "time"], period: int, horizon: int) -> Float[np.ndarray, "horizon"]:
    """The last value of a training part, its season taken out before and put back after: M4's Naive2.

    Without a season (`is_seasonal`), or where values are not all positive, it is the last value.
    """
    if not is_seasonal(train, period) or train.min() <= 0:
        return np.full(horizon, train[-1])
    factors = seasonal_factors(train, period)
    ahead = (len(train) + np.arange(horizon)) % period
    return train[-1] / factors[(len(train) - 1) % period] * factors[ahead]

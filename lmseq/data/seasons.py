"""Seasonal periods: those that a frequency has, and those that the values themselves show."""

import numpy as np
from jaxtyping import Float

from lmseq.data.frequencies import split_frequency

# Steps of a season, of one unit a step: a day's of hours and less, a week's of days, else a year's.
_SEASONS = {"s": 86400, "min": 1440, "h": 24, "D": 7, "B": 5, "W": 52}
_SEASONS |= {"MS": 12, "ME": 12, "QS": 4, "QE": 4, "YS": 1, "YE": 1}
_FEWEST_CYCLES = 4  # of a season that is seen in the values
_LEAST = 0.3  # autocorrelation at a season's lag


def season_of(values: Float[np.ndarray, "time"], frequency: str = "") -> int:
    """Steps of a season of T values: the frequency's own, or else what the autocorrelation shows.

    Hours have seasons of 24, days of 7, business days of 5, weeks of 52, months of 12, quarters of 4, years
    of 1, minutes of a day. 0 where there is none. NaN stands for what is missing.
    """
    known = split_frequency(frequency) if frequency else None
    if known is not None and known[1] in _SEASONS:
        season, count = _SEASONS[known[1]], known[0]
        return season // count if season % count == 0 else 0
    return _season_of_values(np.asarray(values, np.float64))


def autocorrelation(values: Float[np.ndarray, "time"], most: int) -> Float[np.ndarray, "horizon"]:
    """Of values less their linear trend, at lags 0 ... `most`; pairs that are not both known are left out."""
    steps, known = np.arange(len(values)), ~np.isnan(values)
    rest = np.where(known, values, 0.0)
    rest[known] -= np.polyval(np.polyfit(steps[known], values[known], 1), steps[known])
    size = 2 ** int(np.ceil(np.log2(2 * len(values))))
    products, pairs = (
        np.fft.irfft(np.abs(np.fft.rfft(each, size)) ** 2)[: most + 1] for each in (rest, known.astype(float))
    )
    return products / np.maximum(pairs, 1) / max(products[0] / max(pairs[0], 1), np.finfo(float).tiny)


def _season_of_values(values: Float[np.ndarray, "time"]) -> int:
    """The first clear peak of the autocorrelation beyond its first minimum; 0 for none.

    Where a wandering level hides it, it is seen in the differences.
    """
    known = values[~np.isnan(values)]
    if known.size < 4 * _FEWEST_CYCLES:
        return 0
    for seen in (values, np.diff(values)):
        spread = np.nanmax(seen, initial=-np.inf) - np.nanmin(seen, initial=np.inf)
        # Not what rounding leaves of a constant or a line.
        if np.isfinite(spread) and spread > 1e-9 * np.abs(known).max() and (lag := _first_peak(seen)):
            return lag
    return 0


def _first_peak(values: Float[np.ndarray, "time"]) -> int:
    most = len(values) // _FEWEST_CYCLES
    seen = autocorrelation(values, 2 * most)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen[: most + 1] > 0, [False]]).astype(int)))
    stretches = list(zip(edges[::2], edges[1::2], strict=True))[1:]  # without the one at lag 0
    lags = [int(first + np.argmax(seen[first:last])) for first, last in stretches]
    lags = [lag for lag in lags if _is_clear(seen, lag, len(values))]
    if 2 in lags and seen[len(seen) // 4 * 2] < _LEAST:  # what merely alternates soon forgets when
        return 0
    # Weeks of days may recur more clearly than the days do, but not by much; the shorter is the season.
    enough = 0.8 * max((seen[lag] for lag in lags), default=0.0)
    return next((lag for lag in lags if seen[lag] >= enough), 0)


def _is_clear(seen: Float[np.ndarray, "horizon"], lag: int, num_points: int) -> bool:
    """Whether a peak at a lag is a season: chance makes peaks that are the higher the fewer cycles there are.

    Such as random walks have do not recur at twice the lag either.
    """
    least = max(_LEAST, 2 / np.sqrt(num_points / lag))
    rise = seen[lag] - seen[:lag].min()
    return bool(seen[lag] > least and seen[2 * lag] > _LEAST / 2 and rise > 1.5 * _LEAST)

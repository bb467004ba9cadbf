"""Means over seeds, with confidence intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # scipy.stats is slow to import


class Interval(NamedTuple):
    """A mean over seeds and its two-sided 95 % confidence interval (Student 1908)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interval(samples: Sequence[float]) -> Interval:
    """The interval of two samples or more; ValueError for fewer."""
    if len(samples) < 2:
        raise ValueError(f"expected at least two seeds for an interval, got {len(samples)}")
    mean, error = float(np.mean(samples)), standard_error(samples)
    half = error * float(special.stdtrit(len(samples) - 1, 0.975))
    return Interval(mean, mean - half, mean + half)


def standard_error(samples: Sequence[float]) -> float:
    """The standard error of the mean; nan of fewer than two samples."""
    if len(samples) < 2:
        return math.nan
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.std(samples, ddof=1)) / math.sqrt(len(samples))


def estimate(samples: Sequence[float]) -> Interval:
    """As `interval`, with bounds that are nan for one sample, and a mean that is too for none."""
    if len(samples) < 2:
        return Interval(float(samples[0]) if len(samples) else math.nan, math.nan, math.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        return interval(samples)


def proportion(successes: float, number: int) -> Interval:
    """A share of successes among `number` >= 1 trials, and its 95 % score interval (Wilson 1927)."""
    share, z = successes / number, float(special.ndtri(0.975))
    shrunk = (successes + z**2 / 2) / (number + z**2)
    half = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / (1 + z**2 / number)
    return Interval(share, max(0.0, shrunk - half), min(1.0, shrunk + half))


def exact(value: float) -> Interval:
    """A figure without uncertainty, such as one over all cases there are."""
    return Interval(value, value, value)


def flat(name: str, found: Interval) -> dict[str, float]:
    """An interval as entries of a summary."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}

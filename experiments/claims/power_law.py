"""Power laws, straight lines of logarithms, and the frequencies that they are of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmseq.ngram.counts import group


class PowerLaw(NamedTuple):
    """y = factor * x^exponent, and the share of the variance of ln y that it explains."""

    exponent: float
    factor: float
    r_squared: float


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Least squares of ln y on ln x; ValueError for fewer than three points, or any that is not above 0."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.size != y.size or x.size < 3 or not (x > 0).all() or not (y > 0).all():
        raise ValueError(f"expected three points or more, above 0, got {x.size} and {y.size}")
    logs = np.log(y)
    exponent, constant = np.polyfit(np.log(x), logs, 1)
    left = logs - exponent * np.log(x) - constant
    spread = np.sum((logs - logs.mean()) ** 2)
    explained = 1.0 - np.sum(left**2) / spread if spread > 0 else 1.0
    return PowerLaw(float(exponent), float(np.exp(constant)), float(explained))


def log_spaced_ranks(first: int, last: int, most: int = 60) -> np.ndarray:
    """Up to `most` different whole numbers from first to last, evenly on a logarithmic scale."""
    return np.unique(np.rint(np.geomspace(first, max(first, last), most)).astype(np.int64))


def frequencies(words: np.ndarray, n: int) -> np.ndarray:
    """How often each distinct n-gram occurs, largest first; words are numbers from 0 on."""
    vocab_size, ranks = int(words.max(initial=0)) + 1, words.astype(np.int64)
    for later in range(1, n):
        ranks = group(ranks[:-1] * vocab_size + words[later:]).ranks.astype(np.int64)
    counts = np.bincount(ranks)
    return np.sort(counts[counts > 0])[::-1]

"""A random order by formula: where each index goes is computed, so that no order is ever held.

A Feistel network is a bijection of pairs of b bits, whatever its round function. An index that leaves the
range is sent through it again until it is back (cycle walking; Black and Rogaway 2002), fewer than 4 times
on average.
"""

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 6


def permute(
    indices: Int64[np.ndarray, "number"], size: int, keys: UInt64[np.ndarray, "order"]
) -> Int64[np.ndarray, "number"]:
    """Where a permutation of 0 ... size - 1, which the keys fix, sends some of them; int64, as many.

    keys: one for each round, ROUNDS of them. Raises ValueError for indices outside the range.
    """
    if indices.size and not 0 <= indices.min() <= indices.max() < size:
        raise ValueError(f"expected indices in 0 ... {size - 1}, got {indices.min()} ... {indices.max()}")
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    places = _network(indices.astype(np.uint64), half, keys)
    while (outside := np.flatnonzero(places >= size)).size:
        places[outside] = _network(places[outside], half, keys)
    return places.astype(np.int64)


def _network(
    values: UInt64[np.ndarray, "number"], half: np.uint64, keys: UInt64[np.ndarray, "order"]
) -> UInt64[np.ndarray, "number"]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << half) | right


def _mix(values: UInt64[np.ndarray, "number"]) -> UInt64[np.ndarray, "number"]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

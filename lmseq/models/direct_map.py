"""The linear map from a window to all that follows it, in closed form, from the windows of many series.

W = argmin |A W + b - B|^2 + lambda |W|^2 over all windows: A (M, tau D) the inputs after normalisation, B
(M, K D) what followed, in the same units. There are millions of windows and only thousands of inputs, so
what is kept is A'A and A'B, summed in float64 over pieces of the windows; one eigen-decomposition of A'A then
gives the solution for every lambda (Hoerl and Kennard 1970).

Covariates are further columns of A: those of the window's elements, and, for the k-th step, those known of
the steps 2 ... k ahead (the first is known to the window's last element). So each step has more columns than
the one before, and the normal equations of each are the upper left part of the last one's. One Cholesky
factor L L' = A'A + lambda serves them all, as its upper left parts are their factors.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from lmseq.data.windows import sliding_windows
from lmseq.models.normalised import Normalisation, Statistics, statistics
from lmseq.models.shifting import flat
from lmseq.types import NO_COVARIATES, Covariates

PIECE = 1 << 21  # numbers of a piece of A and B together
# Penalties to choose from, over the mean square of the inputs' entries times the number of windows.
PENALTIES = (0.0, *(10.0**power for power in range(-9, 2)))


class Moments(NamedTuple):
    """Sums over windows: their number, inputs (P,), targets (Q,), products (P, P), (P, Q), (Q,), float64."""

    count: int
    inputs: np.ndarray
    targets: np.ndarray
    products: np.ndarray
    crosses: np.ndarray
    squares: np.ndarray


def pieces(
    series: Iterable[np.ndarray],
    tau: int,
    horizon: int,
    kind: Normalisation,
    covariates: Covariates = NO_COVARIATES,
) -> Iterator[tuple[Float[np.ndarray, "windows input"], Float[np.ndarray, "windows target"]]]:
    """Inputs and targets of all windows of all series (T_n, D), normalised, a piece at a time, float64.

    A series too short for a window has none. Covariates stand behind the values, (T_n, D + C): the inputs are
    then the windows with them, and what is known of the steps 2 ... K ahead, step by step.
    """
    for values in series:
        if len(values) < tau + horizon:
            continue
        windows = sliding_windows(np.asarray(values, np.float64), tau, horizon)
        labels = windows.labels if horizon > 1 else windows.labels[:, None]
        step = max(1, PIECE // ((tau + horizon) * values.shape[1]))
        width = values.shape[1] - covariates.total
        for first in range(0, len(labels), step):
            seen, ahead = windows.features[first : first + step], labels[first : first + step]
            found = statistics(seen[..., :width], kind)
            inputs = flat_inputs(seen, found, width, covariates)
            leads = ahead[:, :-1, width : width + covariates.known].reshape(len(seen), -1)
            targets = found.apply(ahead[..., :width]).reshape(len(seen), -1)
            yield np.concatenate([inputs, leads], axis=1), targets


def flat_inputs(
    windows: Float[np.ndarray, "windows window feature"],
    found: Statistics,
    num_features: int,
    covariates: Covariates,
) -> Float[np.ndarray, "windows input"]:
    """Windows (M, tau, D + C) as vectors, their values normalised, as the model reads them."""
    values = found.apply(windows[..., :num_features])
    return flat(np.concatenate([values, windows[..., num_features:]], axis=-1), covariates.static)


def moments(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> Moments:
    """The sums of inputs (M, P) and targets (M, Q) that come in pieces. Raises ValueError where none come."""
    total = None
    for inputs, targets in parts:
        part = (
            len(inputs),
            inputs.sum(axis=0),
            targets.sum(axis=0),
            inputs.T @ inputs,
            inputs.T @ targets,
            (targets**2).sum(axis=0),
        )
        total = part if total is None else tuple(map(sum, zip(total, part, strict=True)))
    if total is None:
        raise ValueError(
            "expected at least one window to fit to, got none: give longer series or a smaller tau"
        )
    return Moments(*total)


class Decomposed(NamedTuple):
    """The normal equations in the basis of their eigenvectors V: A'A = V diag(values) V', about the means.

    projected: V' A'B, (P, Q). input_mean (P,), target_mean (Q,). unit: the size that a penalty of 1 has.
    """

    values: np.ndarray
    vectors: np.ndarray
    projected: np.ndarray
    input_mean: np.ndarray
    target_mean: np.ndarray
    unit: float


def decompose(found: Moments) -> Decomposed:
    """The eigen-decomposition from which `weights` gives the solution for every penalty."""
    input_mean, target_mean = found.inputs / found.count, found.targets / found.count
    products = found.products - np.outer(found.inputs, input_mean)
    crosses = found.crosses - np.outer(found.inputs, target_mean)
    values, vectors = np.linalg.eigh(products)
    return Decomposed(
        np.maximum(values, 0.0),
        vectors,
        vectors.T @ crosses,
        input_mean,
        target_mean,
        float(np.trace(products)) / len(values),
    )


def inverse(of: Decomposed, penalty: float) -> Float[np.ndarray, "input"]:
    """1 / (eigenvalue + lambda) for each eigenvector; 0 for one along which the inputs do not vary."""
    sizes = of.values + penalty * of.unit
    cut = len(sizes) * np.finfo(np.float64).eps * of.values.max(initial=0.0)
    with np.errstate(divide="ignore"):
        return np.where(sizes > cut, 1.0 / sizes, 0.0)


class Map(NamedTuple):
    """The map B = A W + b: W (P, Q), b (Q,), float64, and the penalty that it was found with."""

    weights: Float[np.ndarray, "input target"]
    bias: Float[np.ndarray, "target"]
    penalty: float


def solve(of: Decomposed, penalty: float) -> Map:
    """The map of least penalised squared error; the smallest of those that do, where there are several."""
    weights = of.vectors @ (inverse(of, penalty)[:, None] * of.projected)
    return Map(weights, of.target_mean - of.input_mean @ weights, penalty)


def solve_by_steps(found: Moments, penalty: float, num_inputs: int, num_known: int, horizon: int) -> Map:
    """The same where the k-th of K targets has only the first num_inputs + (k - 1) num_known inputs.

    Weights of other inputs are 0. Where inputs are collinear, the least penalty that float64 can tell from
    none stands for none.
    """
    input_mean, target_mean = found.inputs / found.count, found.targets / found.count
    products = found.products - np.outer(found.inputs, input_mean)
    crosses = found.crosses - np.outer(found.inputs, target_mean)
    size, trace = len(products), float(np.trace(products))
    least = 10 * size * np.finfo(np.float64).eps * trace + np.finfo(np.float64).tiny
    products[np.diag_indices(size)] += max(penalty * trace / size, least)
    factor = np.linalg.cholesky(products)
    halfway = linalg.solve_triangular(factor, crosses, lower=True)
    weights, num_features = np.zeros_like(crosses), crosses.shape[1] // horizon
    for step in range(horizon):
        seen = num_inputs + step * num_known
        chosen = slice(step * num_features, (step + 1) * num_features)
        part = halfway[:seen, chosen]
        weights[:seen, chosen] = linalg.solve_triangular(factor[:seen, :seen], part, lower=True, trans="T")
    return Map(weights, target_mean - input_mean @ weights, penalty)


def mean_square_error(found: Moments, solved: Map) -> Float[np.ndarray, "target"]:
    """The mean squared residual of each target over the windows that were summed."""
    weights, bias = solved.weights, solved.bias
    inputs = found.inputs @ weights
    explained = ((found.products @ weights) * weights).sum(axis=0) + 2 * bias * inputs + found.count * bias**2
    crossed = (weights * found.crosses).sum(axis=0) + bias * found.targets
    return np.maximum(found.squares - 2 * crossed + explained, 0.0) / found.count


def choose_penalty(
    of: Decomposed, parts: Iterable[tuple[np.ndarray, np.ndarray]], penalties: Sequence[float] = PENALTIES
) -> float:
    """The penalty of least squared error on other windows, that come in pieces; the larger of equals.

    Raises ValueError where no window comes.
    """
    errors, count = np.zeros(len(penalties)), 0
    for inputs, targets in parts:
        coordinates = (inputs - of.input_mean) @ of.vectors
        wanted = targets - of.target_mean
        count += len(inputs)
        for place, penalty in enumerate(penalties):
            missed = (coordinates * inverse(of, penalty)) @ of.projected - wanted
            errors[place] += float((missed**2).sum())
    if not count:
        raise ValueError(
            "expected a validation part with a window in it to choose the ridge on: make it longer"
        )
    return max(zip(-errors, penalties, strict=True))[1]

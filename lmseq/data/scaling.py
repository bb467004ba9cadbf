"""The units that models work in: values, or their logarithms, standardised by the training part."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lmseq.data.series_types import Series, Values
from lmseq.data.tables import quoted


class Scaler(NamedTuple):
    """Level and scale of each variable, (D,) float64: z = (x - mean) / scale, of ln x where log holds."""

    mean: Float[np.ndarray, "feature"]
    scale: Float[np.ndarray, "feature"]
    log: bool = False

    def apply(self, values: Values) -> Values:
        """Standardised values, float32; infinite where that holds them not."""
        with np.errstate(over="ignore"):
            return (((np.log(values) if self.log else values) - self.mean) / self.scale).astype(np.float32)

    def undo(self, values: Float[np.ndarray, "*dims feature"]) -> Float[np.ndarray, "*dims feature"]:
        """Values (..., D) in the units of the series, float64."""
        linear = np.asarray(values, np.float64) * self.scale + self.mean
        return np.exp(linear) if self.log else linear


LEAST_SPREAD = 4 * np.finfo(np.float64).eps  # of the largest value: 0.1 + 0.2 and 0.3 differ by rounding only
LARGEST = 1e100  # of values, and one over it their least spread: float64 must hold squares and their sums
FURTHEST = 1e15  # from the training part's mean, in its deviations: float32 must hold squares and their sums


def make_scaler(
    series: Series, train_end: int, *, log: bool = False, standardise: bool = True, counts: bool = False
) -> Scaler:
    """The scaler of a series from its first train_end values; one that changes nothing but by `log`, if so.

    counts: the values must be whole numbers from 0 on, and nothing is changed. Raises ValueError as
    `fit_scaler` does, for a value that has no logarithm, and for one that is no count.
    """
    is_count = (series.values >= 0) & (series.values == np.floor(series.values))
    if counts and not is_count.all():
        at, column = np.argwhere(~is_count)[0].tolist()
        raise ValueError(
            f"{_place(series, at, column)}: expected whole numbers from 0 on with --head=counts, got "
            f"{series.values[at, column]:g}: choose another head"
        )
    if log and (series.values <= 0).any():
        at, column = np.argwhere(series.values <= 0)[0].tolist()
        raise ValueError(
            f"{_place(series, at, column)}: expected values above 0 with --log, got "
            f"{series.values[at, column]:g}: leave --log out"
        )
    if counts or not standardise:
        num_features = series.values.shape[1]
        return Scaler(np.zeros(num_features), np.ones(num_features), log)
    train = series.values[:train_end]
    return fit_scaler(np.log(train) if log else train, series.columns)._replace(log=log)


def _place(series: Series, at: int, column: int) -> str:
    """Where a value stands, for a message."""
    row = series.rows[at] if series.rows else at + 1
    return f"{series.name}, row {row}, column {quoted(series.columns[column])}"


def fit_scaler(train: Values, columns: tuple[str, ...]) -> Scaler:
    """Mean and standard deviation of the training part.

    Raises ValueError for a variable that is constant there but for rounding, and for one whose values or
    whose spread lie beyond what can be squared.
    """
    largest = np.abs(train).max(axis=0)
    large = largest > LARGEST
    with np.errstate(over="ignore"):
        same = np.ptp(train, axis=0) <= LEAST_SPREAD * largest
    if same.any():
        raise ValueError(
            f"column {quoted(columns[int(np.argmax(same))])} is constant in the training part, but for "
            "rounding: it cannot be standardised; leave it out"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = train.mean(axis=0), train.std(axis=0)
    refused = large | ~(scale >= 1 / LARGEST)
    if refused.any():
        raise ValueError(
            f"column {quoted(columns[int(np.argmax(refused))])} is too large or varies too little to be "
            f"squared: expected values up to {LARGEST:g} that vary by {1 / LARGEST:g} or more; give it in "
            "another unit"
        )
    return Scaler(mean, scale)


def check_reach(values: Values, series: Series) -> None:
    """ValueError for a standardised value that the training part says nothing of, nor float32 can square."""
    far = ~(np.abs(values) <= FURTHEST)
    if far.any():
        at, column = np.argwhere(far)[0].tolist()
        raise ValueError(
            f"{_place(series, at, column)}: the value lies more than {FURTHEST:g} standard deviations of the "
            "training part from its mean: mend it, or leave the column out"
        )

"""The series of a run: read or generated, split by time, standardised by its training part."""

import csv
import difflib
import hashlib
from functools import partial
from os.path import exists
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lmseq.config.series import (
    BUNDLED,
    SYNTHETIC,
    SeriesConfig,
    SeriesDataConfig,
    is_file,
    is_spelled_as_file,
    num_direct,
    segment_length,
    trains,
)
from lmseq.data.panel import Panel, read_panel
from lmseq.data.series_files import bundled
from lmseq.data.series_types import Series, Values
from lmseq.data.synthetic import GENERATORS, autoregression
from lmseq.data.tables import is_number, quoted


def load_series(config: SeriesConfig) -> Series:
    """Read or generate what the config names; the config's training seed fixes what is random in it.

    Raises ValueError for a name that is neither a synthetic series nor a bundled one nor a path, and as
    `read_csv`, `bundled` and the generators do.
    """
    data = config.data
    if is_file(data):
        if not is_spelled_as_file(data) and not exists(data.series):
            raise ValueError(_unknown(data.series))
        return _only(load_panel(data))
    if data.series in BUNDLED:
        return bundled(data.series, data.missing)
    generate = GENERATORS[data.series]
    if data.coefficients and generate is autoregression:
        generate = partial(generate, coefficients=read_coefficients(data.coefficients))
    return generate(np.random.default_rng(config.train.seed), data.num_points)


def load_panel(data: SeriesDataConfig) -> Panel:
    """The series of the file that a config names; ValueError as `read_panel`."""
    return read_panel(
        Path(data.series),
        form=data.form,
        columns=read_names(data.columns),
        time_column=data.time_column,
        id_column=data.id_column,
        missing=data.missing,
        decimal=data.decimal,
        repair=data.repair,
        known_columns=read_names(data.known_columns),
        past_columns=read_names(data.past_columns),
        static_columns=read_names(data.static_columns),
        calendar=data.calendar,
    )


def _only(panel: Panel) -> Series:
    """The one series of a panel; ValueError where it has several, or covariates, which no model uses yet."""
    if len(panel.series) != 1:
        raise ValueError(f"{panel.name} has {len(panel.series)} series: several series are not yet used")
    series = panel.series[0]
    names = (*series.known_names, *series.past_names, *series.static_names)
    if names:
        raise ValueError(f"covariates are read but not yet used by any model: leave out {', '.join(names)}")
    return series


def _unknown(name: str) -> str:
    """What is said of a name that is neither known nor there as a file."""
    known = (*SYNTHETIC, *BUNDLED)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown series {quoted(name)}: expected one of {', '.join(known)}, or a CSV file{hint}"


def read_names(text: str) -> tuple[str, ...]:
    """Names separated by commas, in quotes where they have one; ValueError for quotes that do not match."""
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f'expected --columns=a,"b, with a comma",..., got {text!r}: {error}') from None
    return tuple(name.strip() for row in rows for name in row if name.strip())


def read_coefficients(text: str) -> np.ndarray:
    """Numbers separated by commas, float64; ValueError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(is_number(part, ".") for part in parts):
        raise ValueError(f"expected --coefficients=phi_1,phi_2,... as numbers, got {text!r}")
    return np.array(parts, np.float64)


# Splits and units


class SeriesSplit(NamedTuple):
    """Where the training part ends and the test part begins; between them lies the validation part."""

    train_end: int
    test_start: int


def split_series(num_points: int, valid_fraction: float, test_fraction: float) -> SeriesSplit:
    """Training, then validation, then test, in order of time; ValueError when one of them is out of range."""
    if not (0 <= valid_fraction < 1 and 0 < test_fraction < 1 and valid_fraction + test_fraction < 1):
        raise ValueError(
            "expected valid_fraction in [0, 1), test_fraction in (0, 1) and their sum below 1, "
            f"got {valid_fraction} and {test_fraction}"
        )
    test_start = num_points - round(num_points * test_fraction)
    return SeriesSplit(test_start - round(num_points * valid_fraction), test_start)


class Scaler(NamedTuple):
    """Level and scale of each variable, (D,) float64: z = (x - mean) / scale."""

    mean: Float[np.ndarray, "feature"]
    scale: Float[np.ndarray, "feature"]

    def apply(self, values: Values) -> Values:
        """Standardised values, float32; infinite where that holds them not."""
        with np.errstate(over="ignore"):
            return ((values - self.mean) / self.scale).astype(np.float32)

    def undo(self, values: Float[np.ndarray, "*dims feature"]) -> Float[np.ndarray, "*dims feature"]:
        """Values (..., D) in the units of the series, float64."""
        return np.asarray(values, np.float64) * self.scale + self.mean


LEAST_SPREAD = 4 * np.finfo(np.float64).eps  # of the largest value: 0.1 + 0.2 and 0.3 differ by rounding only
LARGEST = 1e100  # of values, and one over it their least spread: float64 must hold squares and their sums
FURTHEST = 1e15  # from the training part's mean, in its deviations: float32 must hold squares and their sums


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


def _check_reach(values: Values, series: Series) -> None:
    """ValueError for a standardised value that the training part says nothing of, nor float32 can square."""
    far = ~(np.abs(values) <= FURTHEST)
    if far.any():
        at, column = np.argwhere(far)[0]
        raise ValueError(
            f"row {series.rows[at] if series.rows else at + 1}, column {quoted(series.columns[column])}: the "
            f"value lies more than {FURTHEST:g} standard deviations of the training part from its mean: mend "
            "it, or leave the column out"
        )


# From a config to values


class Prepared(NamedTuple):
    """A series, its parts, and its values (T, D) standardised by the training part, float32."""

    series: Series
    split: SeriesSplit
    scaler: Scaler
    values: Values

    @property
    def train(self) -> Values:
        """The standardised values of the training part."""
        return self.values[: self.split.train_end]

    def facts(self) -> dict[str, Any]:
        """What a model is trained on: name, columns, parts, and SHA-256 of the values."""
        return {
            "series": self.series.name,
            "columns": list(self.series.columns),
            "points": len(self.values),
            "train_points": self.split.train_end,
            "test_points": len(self.values) - self.split.test_start,
            "sha256": hashlib.sha256(np.ascontiguousarray(self.series.values).tobytes()).hexdigest(),
        }


def least_points(config: SeriesConfig, num_features: int) -> int:
    """How long a training part must be: a segment and a target, or a window for each weight to solve for."""
    if trains(config):
        return segment_length(config) + 1
    if config.model.model == "linear":
        tau = config.model.tau
        return tau * num_features + 1 + tau + num_direct(config) - 1
    return 2


def prepare(config: SeriesConfig) -> Prepared:
    """Load, check, split and standardise what the config names.

    Raises ValueError as `load_series`, `split_series` and `fit_scaler` do, where a part is too short for the
    model or the season, where interpolated values would tell the model what comes, where all values of the
    test part are missing, and for a value too far from those of the training part.
    """
    data = config.data
    loaded = load_series(config)
    if data.period:
        loaded = loaded._replace(period=data.period)
    split = split_series(len(loaded.values), data.valid_fraction, data.test_fraction)
    _check_lengths(config, loaded, split)
    if loaded.filled is not None:
        _check_filled(loaded, split, data.missing)
    scaler = fit_scaler(loaded.values[: split.train_end], loaded.columns)
    values = scaler.apply(loaded.values)
    _check_reach(values, loaded)
    return Prepared(loaded, split, scaler, values)


def _check_lengths(config: SeriesConfig, series: Series, split: SeriesSplit) -> None:
    """ValueError for a part that is too short for the model or for the season that is asked for."""
    num_points, num_features = series.values.shape
    needed, num_test = least_points(config, num_features), num_points - split.test_start
    if num_test < 2 or split.train_end < needed:
        raise ValueError(
            f"expected at least {needed} points to train on (tau, num_steps and what lies ahead) and 2 to "
            f"test on, got {split.train_end} and {num_test} of {series.name}: give a longer series "
            "(num_points of a synthetic one), a smaller tau, num_steps or num_ahead, or another "
            "valid_fraction or test_fraction"
        )
    is_seasonal = config.data.period > 0 or config.model.model == "seasonal"
    if is_seasonal and series.period >= split.train_end:
        raise ValueError(
            f"expected a period below the {split.train_end} points of the training part, got "
            f"{series.period}: neither model seasonal nor a baseline can repeat a season not seen whole"
        )


def _check_filled(series: Series, split: SeriesSplit, missing: str) -> None:
    """ValueError where filled values would tell what comes, and where none is left to be judged by."""
    if missing == "interpolate" and series.filled[max(0, split.train_end - 1) :].any():
        raise ValueError(
            f"{series.name} has missing values after the training part, where --missing=interpolate would "
            "tell the model what comes: choose --missing=previous"
        )
    if series.filled[split.test_start :].all():
        raise ValueError(
            f"{series.name} has no value that is not missing in the test part: give it a larger "
            "test_fraction, or cut such rows off"
        )

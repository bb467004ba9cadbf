"""The series of a run: read or generated, split by time, standardised by its training part."""

import csv
import difflib
from collections.abc import Sequence
from functools import partial
from os.path import exists
from pathlib import Path

import numpy as np

from lmseq.config.series import (
    BUNDLED,
    SYNTHETIC,
    SeriesConfig,
    SeriesDataConfig,
    has_covariates,
    is_file,
    is_spelled_as_file,
    num_direct,
    segment_length,
    trains,
)
from lmseq.data.panel import Panel, Reading, read_panel
from lmseq.data.prepared import Prepared, PreparedPanel, SeriesSplit, with_units
from lmseq.data.scaling import check_reach, make_scaler
from lmseq.data.seasons import season_of
from lmseq.data.series_files import bundled
from lmseq.data.series_types import Series
from lmseq.data.synthetic import GENERATORS, autoregression
from lmseq.data.tables import is_number, quoted


def load_panel(config: SeriesConfig, folders: Sequence[Path] = ()) -> Panel:
    """Read or generate what the config names; the config's training seed fixes what is random in it.

    A file that is not there is looked for in the folders. Raises ValueError for a name that is neither a
    synthetic series nor a bundled one nor a path, and as `read_panel`, `bundled` and the generators do.
    """
    data = config.data
    if is_file(data):
        if not is_spelled_as_file(data) and not exists(data.series):
            raise ValueError(_unknown(data.series))
        test_path = _found(data.test_series, folders) if data.test_series else None
        return read_panel(_found(data.series, folders), reading_of(data), test_path=test_path)
    series = bundled(data.series, data.missing) if data.series in BUNDLED else _generated(config)
    return Panel(series.name, (series,), notes=series.notes)


def reading_of(data: SeriesDataConfig) -> Reading:
    """How the config has a file read."""
    return Reading(
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
        channels=data.channels,
    )


def _found(name: str, folders: Sequence[Path]) -> Path:
    """The file of a name: as it stands, or in the first of the folders that has it."""
    places = [Path(name), *(folder / name for folder in folders)]
    return next((place for place in places if exists(place)), places[0])


def _generated(config: SeriesConfig) -> Series:
    data = config.data
    generate = GENERATORS[data.series]
    if data.coefficients and generate is autoregression:
        generate = partial(generate, coefficients=read_coefficients(data.coefficients))
    return generate(np.random.default_rng(config.train.seed), data.num_points)


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


# Splits


def split_series(num_points: int, valid_fraction: float, test_fraction: float) -> SeriesSplit:
    """Training, then validation, then test, in order of time; ValueError when one of them is out of range."""
    if not (0 <= valid_fraction < 1 and 0 < test_fraction < 1 and valid_fraction + test_fraction < 1):
        raise ValueError(
            "expected valid_fraction in [0, 1), test_fraction in (0, 1) and their sum below 1, "
            f"got {valid_fraction} and {test_fraction}"
        )
    test_start = num_points - round(num_points * test_fraction)
    return SeriesSplit(test_start - round(num_points * valid_fraction), test_start)


# From a config to values


def least_points(config: SeriesConfig, num_features: int, num_series: int = 1) -> int:
    """How long a training part must be: a segment and a target, or a window for each weight to solve for.

    Several series, and a ridge, give enough windows together, or none is needed: then it is one window.
    """
    if trains(config):
        return segment_length(config) + 1
    if config.model.model == "linear":
        window = config.model.tau + num_direct(config)
        return window + (config.model.tau * num_features if solves_exactly(config, num_series) else 0)
    return 2


def solves_exactly(config: SeriesConfig, num_series: int) -> bool:
    """Whether a linear map is found from all windows at once, and not from their sums."""
    is_plain = config.model.ridge == 0 and config.model.normalisation == "none"
    return num_series == 1 and is_plain and not has_covariates(config.data)


def prepare(config: SeriesConfig, folders: Sequence[Path] = ()) -> PreparedPanel:
    """Load, check, split and standardise what the config names; files are looked for in the folders too.

    Raises ValueError as `load_panel`, `split_series` and `make_scaler` do, where a part is too short for the
    model or the season, where interpolated values would tell the model what comes, where all values of the
    test part are missing, and for a value too far from those of the training part.
    """
    panel = load_panel(config, folders)
    found, short = [], []
    for place, series in enumerate(panel.series):
        series, split = _parts(config, series, panel.test[place] if panel.test else None)
        parted = (with_season(config, panel, series, split.train_end), split)
        if len(panel.series) > 1 and _is_short(config, *parted):
            short.append(series.name)
            continue
        found.append(_prepare_one(config, *parted, len(panel.series)))
    _check_short(config, panel, short, found)
    return with_units(PreparedPanel(panel, tuple(found)))


def with_season(config: SeriesConfig, panel: Panel, series: Series, train_end: int) -> Series:
    """The series with the season that the config says, or else that of its frequency or its training part.

    Only of files is it looked for: other series know their own.
    """
    if config.data.period:
        return series._replace(period=config.data.period)
    if series.period or not is_file(config.data):
        return series
    return series._replace(period=season_of(series.observed()[:train_end, 0], panel.frequency))


def _parts(config: SeriesConfig, series: Series, test: Series | None) -> tuple[Series, SeriesSplit]:
    """A series with its test part, and where its parts lie."""
    data = config.data
    if test is not None:
        train_end = len(series.values)
        valid_points = data.valid_points or round(train_end * data.valid_fraction)
        return series.followed_by(test), SeriesSplit(train_end - valid_points, train_end)
    length = len(series.values)
    if data.train_points:
        test_start = data.train_points + data.valid_points
        end = test_start + data.test_points if data.test_points else length
        if end > length:
            raise ValueError(
                f"expected {end} points of {series.name} for train_points, valid_points and test_points, got "
                f"{length}: choose fewer"
            )
        return series.until(end), SeriesSplit(data.train_points, test_start)
    if data.test_points or data.valid_points:
        test_points = data.test_points or round(length * data.test_fraction)
        valid_points = data.valid_points or round(length * data.valid_fraction)
        return series, SeriesSplit(length - test_points - valid_points, length - test_points)
    return series, split_series(length, data.valid_fraction, data.test_fraction)


def _prepare_one(config: SeriesConfig, series: Series, split: SeriesSplit, num_series: int) -> Prepared:
    """A series standardised, once it is known to be long enough and whole."""
    data = config.data
    _check_lengths(config, series, split, num_series)
    if series.filled is not None:
        _check_filled(series, split, data.missing)
    return standardised(config, series, split)


def standardised(config: SeriesConfig, series: Series, split: SeriesSplit) -> Prepared:
    """A series in the units that the config has its model work in.

    Raises ValueError as `make_scaler` does, and for a value too far from those of the training part.
    """
    data, is_of_counts = config.data, config.model.head == "counts"
    units = {"log": data.log, "standardise": data.standardise, "counts": is_of_counts}
    scaler = make_scaler(series, split.train_end, **units)
    values = scaler.apply(series.values)
    check_reach(values, series)
    return Prepared(series, split, scaler, values)


def _is_short(config: SeriesConfig, series: Series, split: SeriesSplit) -> bool:
    """Whether a series of a panel has no window to train on, or nothing to forecast."""
    num_test = len(series.values) - split.test_start
    return split.train_end < least_points(config, series.values.shape[1], 2) or num_test < 1


def _check_short(config: SeriesConfig, panel: Panel, short: list[str], rest: list[Prepared]) -> None:
    """ValueError for series of a panel that are too short, unless they may be left out and some are left."""
    if short and (config.data.short == "error" or not rest):
        raise ValueError(
            f"{len(short)} of {len(panel.series)} series of {panel.name} are too short for a window of the "
            f"model, the first is {quoted(short[0])}: choose a smaller tau, num_steps or num_ahead, or "
            "--short=leave_out"
        )


def _check_lengths(config: SeriesConfig, series: Series, split: SeriesSplit, num_series: int) -> None:
    """ValueError for a part that is too short for the model or for the season that is asked for."""
    num_points, num_features = series.values.shape
    needed, num_test = least_points(config, num_features, num_series), num_points - split.test_start
    if num_test < (2 if num_series == 1 else 1) or split.train_end < needed:
        raise ValueError(
            f"expected at least {needed} points to train on (tau, num_steps and what lies ahead) and 2 to "
            f"test on, got {split.train_end} and {num_test} of {series.name}: give a longer series "
            "(num_points of a synthetic one), a smaller tau, num_steps or num_ahead, or other parts: another "
            "valid_fraction or test_fraction, or train_points, valid_points and test_points"
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

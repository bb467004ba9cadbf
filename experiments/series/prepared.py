"""The series of a run: read or generated, split, standardised; and the model that is fitted to it."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import app
from lmseq import scoring
from lmseq.config import series as series_config
from lmseq.contract import Model
from lmseq.data import series as data_series
from lmseq.data import series_files
from lmseq.data.series import Scaler, Series, SeriesSplit
from lmseq.models.build import build_series_model
from lmseq.models.linear import fit_least_squares
from lmseq.config.series import SeriesConfig
from lmseq.training.objectives import segment_length
from lmseq.types import Params


class Prepared(NamedTuple):
    """A series, its parts, and its values (T, D) standardised by the training part."""

    series: Series
    split: SeriesSplit
    scaler: Scaler
    values: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return self.values[: self.split.train_end]

    def facts(self) -> dict[str, Any]:
        """What a run was trained on: name, columns, parts, and SHA-256 of the values."""
        return {
            "series": self.series.name,
            "columns": list(self.series.columns),
            "points": len(self.values),
            "train_points": self.split.train_end,
            "test_points": len(self.values) - self.split.test_start,
            "sha256": hashlib.sha256(np.ascontiguousarray(self.series.values).tobytes()).hexdigest(),
        }


def load_series(config: SeriesConfig) -> Series:
    """Read or generate what the config names; the seed fixes what is random in it."""
    data = config.data
    if series_config.is_file(data):
        columns = tuple(name.strip() for name in data.columns.split(",") if name.strip())
        return series_files.read_csv(Path(data.series), columns, data.time_column, data.missing)
    rng = np.random.default_rng(config.train.seed)
    match data.series:
        case "noisy_sine":
            return data_series.noisy_sine(rng, data.num_points)
        case "ar":
            phi = read_coefficients(data.coefficients) if data.coefficients else None
            phi = data_series.random_coefficients(rng, 3) if phi is None else phi
            return data_series.autoregression(rng, data.num_points, phi)
        case "logistic":
            return data_series.logistic_map(rng, data.num_points)
        case "mackey_glass":
            return data_series.mackey_glass(rng, data.num_points)
        case "lorenz":
            return data_series.lorenz(rng, data.num_points)
        case "trend_and_season":
            return data_series.trend_and_season(rng, data.num_points)
        case name if name in series_config.BUNDLED:
            return series_files.bundled(name, data.missing)
        case name:
            known = ", ".join((*series_config.SYNTHETIC, *series_config.BUNDLED))
            raise ValueError(f"unknown series {name!r}: expected one of {known}, or a CSV file")


def read_coefficients(text: str) -> np.ndarray:
    """Numbers separated by commas; ValueError for anything else."""
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise ValueError(f"expected --coefficients=phi_1,phi_2,... as numbers, got {text!r}") from None


def least_points(config: SeriesConfig, num_features: int) -> int:
    """How long a training part must be: a segment and a target, or a window for each weight to solve for."""
    if series_config.trains(config):
        return segment_length(config) + 1
    if config.model.model == "linear":
        tau = config.model.tau
        return tau * num_features + 1 + tau + series_config.num_direct(config) - 1
    return 2


def prepare(config: SeriesConfig) -> Prepared:
    """Load, check, split and standardise; says how much it is. ValueError where a part is too short."""
    data = config.data
    loaded = load_series(config)
    if data.period:
        loaded = loaded._replace(period=data.period)
    num_points = len(loaded.values)
    split = data_series.split_series(num_points, data.valid_fraction, data.test_fraction)
    needed, num_test = least_points(config, loaded.values.shape[1]), num_points - split.test_start
    if num_test < 2 or split.train_end < needed:
        raise ValueError(
            f"expected at least {needed} points to train on (tau, num_steps and what lies ahead) and 2 to "
            f"test on, got {split.train_end} and {num_test} of {loaded.name}: give a longer series, a "
            "smaller tau, num_steps or num_ahead, or other fractions"
        )
    ahead = loaded.filled is not None and loaded.filled[max(0, split.train_end - 1) :].any()
    if data.missing == "interpolate" and ahead:
        raise ValueError(
            f"{loaded.name} has missing values after the training part, where --missing=interpolate would "
            "tell the model what comes: choose --missing=previous"
        )
    scaler = data_series.fit_scaler(loaded.values[: split.train_end], loaded.columns)
    num_valid = split.test_start - split.train_end
    app.say(
        f"{loaded.name}: {split.train_end:,} / {num_valid:,} / {num_test:,} points (train / valid / test) of "
        f"{app.listed(loaded.columns)}"
    )
    return Prepared(loaded, split, scaler, scaler.apply(loaded.values))


def model_of(config: SeriesConfig, prepared: Prepared) -> Model:
    """The model that the config names, for the variables that the series has."""
    return build_series_model(
        config.model,
        prepared.values.shape[1],
        num_direct=series_config.num_direct(config),
        period=prepared.series.period,
    )


def fit_at_once(config: SeriesConfig, prepared: Prepared, model: Model) -> Params:
    """Parameters of a model that needs no steps: least squares, or a baseline's none."""
    if config.model.model in series_config.BASELINES:
        return model.init(jax.random.key(0))
    direct = series_config.num_direct(config)
    return fit_least_squares(prepared.train, config.model.tau, config.model.head, direct)


def log_density(prepared: Prepared, model: Model, params: Params, start: int, stop: int) -> float:
    """Mean log-density in nats a time step of points start ... stop - 1, in the units of the series."""
    known = ~np.isnan(prepared.series.observed()[start:stop]).any(axis=1)
    log_probs = scoring.score_stream(model, params, prepared.values[:stop])[start:][known]
    return float(log_probs.mean(dtype=np.float64)) - float(np.log(prepared.scaler.scale).sum())


def evaluate(prepared: Prepared, model: Model, params: Params, step: int) -> dict[str, Any]:
    """Loss of the validation part, of standardised values; None where there is no such part."""
    first, last = prepared.split
    if first == last:
        return {"valid_loss": None}
    log_probs = scoring.score_stream(model, params, prepared.values[:last])[first:]
    return {"valid_loss": -float(log_probs.mean(dtype=np.float64))}

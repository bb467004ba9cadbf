"""What a run on a series is made of: the sections that differ from a language model's, and their checks."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lmseq.config.kinds import CellKind
from lmseq.config.knobs import MOST_DRAWS, MOST_UNITS, at_least, below_one, check_idle, knob
from lmseq.config.mixers import (
    STACK,
    MixerConfig,
    MixerKind,
    check_mixers,
    idle_mixers,
    is_stack,
    layer_names,
    settled_stack,
)
from lmseq.config.training import TrainConfig, check_shares, check_train, idle_in_training, settled

SeriesModelKind = Literal[
    "mlp", "linear", CellKind, MixerKind, "stack", "mean", "persistence", "seasonal", "drift"
]
SYNTHETIC = ("noisy_sine", "ar", "logistic", "mackey_glass", "lorenz", "trend_and_season")
BUNDLED = ("sunspots", "co2", "nile", "elnino")
NETS = ("mlp", *get_args(CellKind), *get_args(MixerKind), "stack")
COVARIATES = ("known_columns", "past_columns", "static_columns", "calendar")
BASELINES = ("mean", "persistence", "seasonal", "drift")


def _either(names: tuple[str, ...]) -> str:
    """Names as one writes a choice."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


@dataclass(frozen=True)
class SeriesDataConfig:
    """A series, its split, and the segments it is trained on."""

    series: str = knob(
        "noisy_sine",
        f"{_either(SYNTHETIC)}; {_either(BUNDLED)} (with statsmodels); or a CSV file",
        is_path=True,
    )
    columns: str = knob(
        "", 'columns of a CSV file, a,"b, with a comma",...; empty: all of numbers but the time'
    )
    time_column: str = knob(
        "",
        "column of a CSV file with times, checked for order and gaps; empty: one of dates, if all are read",
    )
    form: Literal["auto", "table", "long", "wide"] = knob(
        "auto",
        "of a CSV file: a row a time, a row an id and time, or a row a series; auto: what it plainly is",
    )
    id_column: str = knob("", "column of a long CSV file that names the series of each row; empty: found")
    repair: bool = knob(
        False, "rows of a CSV file are sorted, those of one time averaged, times that lack are missing values"
    )
    known_columns: str = knob(
        "", "columns of a CSV file that are known ahead, also in rows after the last value"
    )
    past_columns: str = knob("", "columns of a CSV file that are known only so far")
    static_columns: str = knob("", "columns of a long CSV file that are the same in all rows of a series")
    calendar: bool = knob(
        False, "hour, day of the week and of the year, of dates in a CSV file, as covariates"
    )
    decimal: Literal["auto", "point", "comma"] = knob(
        "auto", "decimal mark in a CSV file: 1.5 or 1,5; auto: the one by which all cells are numbers"
    )
    missing: Literal["error", "previous", "interpolate"] = knob(
        "error", "what to do with missing values: refuse, repeat the value before, or a straight line"
    )
    num_points: int = knob(1000, "length of a synthetic series")
    coefficients: str = knob("", "phi_1,phi_2,... of series ar; empty: three, stable and drawn at random")
    period: int = knob(0, "steps of a season, for the seasonal baseline; 0: the series' own, if it has one")
    test_series: str = knob(
        "", "file of the same form with what came after each series: the test part", is_path=True
    )
    channels: Literal["joint", "independent"] = knob(
        "joint", "columns of a table: values of one series, or series of one value that share one model"
    )
    short: Literal["error", "leave_out"] = knob(
        "error", "what to do with series of a panel that are too short for the model"
    )
    train_points: int = knob(0, "length of the training part, from the beginning; 0: by the shares below")
    valid_points: int = knob(0, "length of the validation part, before the test part; 0: by its share")
    test_points: int = knob(0, "length of the test part; 0: by its share")
    log: bool = knob(False, "the model works on logarithms of the values, which must be above 0")
    standardise: bool = knob(
        True, "values minus the mean of the training part, over their deviation there, series by series"
    )
    valid_fraction: float = knob(0.0, "share for validation during training, before the test part")
    test_fraction: float = knob(0.4, "share for the test, at the end")
    batch_size: int = knob(64, "segments of a batch")
    num_steps: int = knob(16, "predictions in a segment that are trained on, after tau values read")


@dataclass(frozen=True)
class SeriesModelConfig(MixerConfig):
    """The model under the contract."""

    model: SeriesModelKind = knob(
        "mlp",
        "perceptron or linear map of the last tau values; recurrent cell; attention; a matrix state, free "
        "or as published; stack, as --layers says; or a baseline",
    )
    tau: int = knob(4, "values seen by mlp and linear, and read before the first prediction that counts")
    head: Literal["point", "median", "normal", "student", "counts", "quantiles"] = knob(
        "point",
        "predict a value by squared or (median) by absolute errors, a normal or Student's t-distribution, "
        "counts 0, 1, 2, ... (negative binomial), which are not standardised, or quantiles (0.05 to 0.95)",
    )
    hidden_size: int = knob(64, "units of each layer")
    num_layers: int = knob(2, "hidden or recurrent layers")
    activation: Literal["tanh", "relu", "gelu", "silu"] = knob("tanh", "of the mlp's layers")
    residual: bool = knob(False, "the mlp's layers after the first are added to their input")
    skip: bool = knob(
        False, "the head sees the last tau values too, beside the last layer: a linear map is added"
    )
    fit: Literal["least_squares", "gradient"] = knob(
        "least_squares", "how the linear model is fitted: in closed form or step by step"
    )
    ridge: float = knob(
        0.0,
        "penalty of the squared weights in closed form, over the mean square of the inputs; -1: the best on "
        "the validation part",
    )
    refit: bool = knob(
        False, "in closed form fit again on training and validation part, once ridge is chosen"
    )
    normalisation: Literal["none", "last", "mean", "scale", "instance"] = knob(
        "none",
        "of each window of tau values, undone in the forecast: minus its last value; its mean; over its mean "
        "size; minus its mean, over its deviation",
    )
    ensemble: int = knob(1, "members from different initial parameters, trained together and averaged")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised, and against which accumulation of errors."""

    objective: Literal["teacher_forcing", "unrolled", "scheduled_sampling", "input_noise", "direct"] = knob(
        "teacher_forcing",
        "one step from true values; num_ahead steps through own predictions; own predictions mixed in; noise "
        "on inputs; num_ahead steps at once without feedback",
    )
    num_ahead: int = knob(8, "steps ahead of objectives unrolled and direct")
    sampling_rate: float = knob(0.5, "share of own predictions at the end of scheduled_sampling, from 0")
    input_noise: float = knob(0.1, "standard deviation of input_noise, of standardised values")


@dataclass(frozen=True)
class ForecastConfig:
    """The figures at the end of a run."""

    max_horizon: int = knob(64, "steps ahead, from every origin of the test part")
    origin_step: int = knob(1, "steps between the origins of a panel's test parts")
    refit_every: int = knob(
        0, "a closed-form model is fitted again to all that came before every so many origins; 0: never"
    )
    num_paths: int = knob(200, "sampled trajectories for the quantile band of a recursive forecast")


def _train_defaults() -> TrainConfig:
    return TrainConfig(
        learning_rate=3e-3, num_train_steps=2000, steps_per_dispatch=100, eval_every=500, checkpoint_every=500
    )


@dataclass(frozen=True)
class SeriesConfig:
    """All of a run on a series."""

    data: SeriesDataConfig = field(default_factory=SeriesDataConfig)
    model: SeriesModelConfig = field(default_factory=SeriesModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=_train_defaults)
    forecast: ForecastConfig = field(default_factory=ForecastConfig)


def trains(config: SeriesConfig) -> bool:
    """Whether the model is trained step by step."""
    return config.model.model not in BASELINES and not (
        config.model.model == "linear" and config.model.fit == "least_squares"
    )


def has_validation(data: SeriesDataConfig) -> bool:
    """Whether there is a validation part."""
    return data.valid_fraction > 0 or data.valid_points > 0


def has_covariates(data: SeriesDataConfig) -> bool:
    """Whether something is read beside the values."""
    return bool(data.known_columns or data.past_columns or data.static_columns or data.calendar)


# For nets that are to be used, chosen on sums of sines and on an autoregression.
_OF_NETS = {
    "valid_fraction": 0.1,
    "objective": "direct",
    "num_train_steps": 500,
    "steps_per_dispatch": 50,
    "eval_every": 50,
    "checkpoint_every": 100,
    "learning_rate": 1e-2,
    "optimizer": "adamw",
    "batch_size": 32,
}
_LONGEST = 64  # steps, of what a net reads first and of what it predicts at once
_NUM_ORIGINS = 32  # of a segment


def net_settings(settings: Mapping[str, Any], given: frozenset[str], num_points: int) -> dict[str, Any]:
    """Settings with which a net forecasts well on a series of `num_points` rows, whatever its season.

    settings: all, of which `given` are chosen already. A state is worth carrying over long segments only,
    and a direct head needs no feedback; the validation part chooses the checkpoint. Segments take at most
    five eighths of the training part. What the chosen objective or optimiser does not read is left out.
    """
    found = {**settings, **{name: value for name, value in _OF_NETS.items() if name not in given}}
    num_train = int(num_points * (1 - found["valid_fraction"] - found["test_fraction"]))
    implied = {**_OF_NETS, "skip": settings["model"] in ("rnn", "mingru", "minlstm", "rglru")}
    if settings["layers"] or settings["block"] == "residual":
        implied["skip"] = False
    implied["tau"] = max(1, min(_LONGEST, num_train // 4))
    implied["num_steps"] = max(1, min(_NUM_ORIGINS, num_train // 8))
    if found["objective"] == "direct":
        implied["num_ahead"] = max(2, min(_LONGEST, num_train // 4))
    if found["head"] == "counts":
        implied["normalisation"] = "scale"
    if found["optimizer"] == "adamw":
        implied["weight_decay"] = 1.0
    return implied


def num_direct(config: SeriesConfig) -> int:
    """How many steps ahead the head predicts at once."""
    return config.objective.num_ahead if config.objective.objective == "direct" else 1


def segment_length(config: SeriesConfig) -> int:
    """Inputs of a segment: tau - 1 read only, n origins, and what targets further ahead need."""
    chosen = config.objective
    ahead = chosen.num_ahead if chosen.objective in ("unrolled", "direct") else 1
    return config.model.tau - 1 + config.data.num_steps + ahead - 1


def is_file(data: SeriesDataConfig) -> bool:
    """Whether the series is read from a file: its name is not one of those known here."""
    return data.series not in (*SYNTHETIC, *BUNDLED)


def is_spelled_as_file(data: SeriesDataConfig) -> bool:
    """Whether the name can only be a path: others may as well be a known name that is mistyped."""
    return "." in data.series or "/" in data.series


def check_objective(objective: ObjectiveConfig) -> None:
    """Raise ValueError for a setting of the objective that is out of range."""
    # A direct head of one step is no direct head.
    at_least(1 + (objective.objective == "direct"), MOST_UNITS, num_ahead=objective.num_ahead)
    at_least(0, input_noise=objective.input_noise)
    if not 0.0 <= objective.sampling_rate <= 1.0:
        raise ValueError(f"expected sampling_rate in [0, 1], got {objective.sampling_rate}")


def check(config: SeriesConfig) -> SeriesConfig:
    """The config with derived settings filled in; ValueError for one out of range or that nothing reads."""
    check_train(config.train)
    config = dataclasses.replace(config, model=settled_stack(config.model))
    _check_ranges(config)
    _check_pairs(config)
    _check_idle(config)
    return dataclasses.replace(config, train=settled(config.train))


def _check_ranges(config: SeriesConfig) -> None:
    """Each setting by itself."""
    data, model, forecast = config.data, config.model, config.forecast
    at_least(1, num_points=data.num_points, num_steps=data.num_steps)
    at_least(1, MOST_UNITS, batch_size=data.batch_size, tau=model.tau, hidden_size=model.hidden_size)
    at_least(1, 1000, num_layers=model.num_layers, ensemble=model.ensemble)
    at_least(1, MOST_UNITS, max_horizon=forecast.max_horizon)
    at_least(1, MOST_DRAWS, num_paths=forecast.num_paths)
    at_least(0, period=data.period, train_points=data.train_points, valid_points=data.valid_points)
    at_least(0, test_points=data.test_points, refit_every=forecast.refit_every)
    at_least(1, origin_step=forecast.origin_step)
    at_least(-1, ridge=model.ridge)
    if -1 < model.ridge < 0:
        raise ValueError(f"expected ridge of at least 0, or -1, got {model.ridge}")
    below_one(valid_fraction=data.valid_fraction, test_fraction=data.test_fraction)
    check_objective(config.objective)
    check_mixers(model, model.model)


def _check_pairs(config: SeriesConfig) -> None:
    """Settings that must fit each other."""
    name = config.objective.objective
    check_shares(config.data.batch_size, config.train.host_devices, config.train.accumulate_steps)
    if name not in ("teacher_forcing", "direct") and not trains(config):
        raise ValueError(
            f"objective {name} needs a model that is trained step by step, got {config.model.model}"
        )
    if config.data.past_columns and name in ("unrolled", "scheduled_sampling"):
        raise ValueError(
            f"objective {name} would train on past_columns that a forecast does not know: choose "
            "teacher_forcing, input_noise or direct"
        )
    if config.model.head == "counts":
        _check_counts(config)
    given = [name for name in COVARIATES if getattr(config.data, name)]
    if given and is_stack(config.model, config.model.model):
        raise ValueError(
            f"{given[0]} are read by mlp, linear and recurrent cells in plain blocks, got a stack of mixers: "
            "leave them out, or choose another model"
        )
    heads = ("point", "normal")
    if config.model.model == "linear" and not trains(config) and config.model.head not in heads:
        raise ValueError(
            f"expected head {_either(heads)} of a linear model by least squares, got "
            f"{config.model.head}: give --fit=gradient"
        )


def _check_counts(config: SeriesConfig) -> None:
    """Counts stay as they are: windows may be brought to one size, but nothing is taken off."""
    if config.data.log:
        raise ValueError("head counts is of the whole numbers themselves: leave --log out")
    if config.model.normalisation not in ("none", "scale"):
        raise ValueError(
            f"expected normalisation none or scale of head counts, got {config.model.normalisation}"
        )


def _check_idle(config: SeriesConfig) -> None:
    """A setting that nothing reads is refused rather than ignored."""
    data, model, objective, forecast = config.data, config.model, config.objective, config.forecast
    layered, fits = model.model not in (*BASELINES, "linear"), model.model not in BASELINES
    closed = model.model == "linear" and not trains(config)
    name, kind = objective.objective, model.model
    names = layer_names(model, kind, model.num_layers)
    # What may be mistyped is for `load_series` to refuse: not what it would read is wrong, but the name.
    unclear = is_file(data) and not is_spelled_as_file(data)
    synthetic = data.series in SYNTHETIC
    check_idle(
        (data, "columns", is_file(data), "a CSV file"),
        (data, "time_column", is_file(data), "a CSV file"),
        (data, "decimal", is_file(data), "a CSV file"),
        *((data, name, is_file(data), "a CSV file") for name in ("form", "id_column", "repair")),
        *((data, name, is_file(data), "a CSV file") for name in COVARIATES),
        *((data, name, fits, "models that are fitted") for name in COVARIATES),
        (data, "num_points", synthetic or unclear, "a synthetic series"),
        (data, "test_series", is_file(data), "a CSV file"),
        (data, "channels", is_file(data), "a CSV file"),
        (data, "short", is_file(data), "a CSV file"),
        (data, "missing", not synthetic, "a CSV file or a series of statsmodels"),
        (data, "coefficients", data.series == "ar" or unclear, "series ar"),
        (model, "hidden_size", layered, "models with hidden units"),
        (model, "num_layers", layered and kind != STACK, "models of equal layers"),
        (model, "activation", model.model == "mlp", "model mlp"),
        (model, "residual", model.model == "mlp", "model mlp"),
        (
            model,
            "skip",
            layered and not is_stack(model, kind),
            "perceptrons, and recurrent cells in plain blocks",
        ),
        (model, "fit", model.model == "linear", "model linear"),
        (model, "ridge", closed, "model linear in closed form"),
        (model, "refit", closed and model.ridge == -1, "ridge -1"),
        (model, "normalisation", fits, "models that are fitted"),
        (model, "head", fits, "models that are fitted"),
        (model, "ensemble", trains(config), "models that are trained step by step"),
        (objective, "objective", fits, "models that are fitted"),
        (objective, "num_ahead", name in ("unrolled", "direct"), "objectives unrolled and direct"),
        (objective, "sampling_rate", name == "scheduled_sampling", "objective scheduled_sampling"),
        (objective, "input_noise", name == "input_noise", "objective input_noise"),
        (forecast, "num_paths", model.head not in ("point", "median"), "heads that predict a spread"),
        (forecast, "refit_every", closed, "model linear in closed form"),
        (data, "batch_size", trains(config), "models that are trained step by step"),
        (data, "num_steps", trains(config), "models that are trained step by step"),
        (config.train, "target_loss", has_validation(data), "runs with a valid_fraction"),
        (config.train, "plateau_patience", has_validation(data), "runs with a valid_fraction"),
        (config.train, "average_patience", has_validation(data), "runs with a valid_fraction"),
        *idle_mixers(model, kind, names),
        *idle_in_training(config.train),
    )
    if not trains(config):
        _check_untrained(config.train)


def _check_untrained(train: TrainConfig) -> None:
    """ValueError for a setting of the training that was given, though nothing is trained."""
    untrained = dataclasses.replace(_train_defaults(), seed=train.seed)
    for each in dataclasses.fields(untrained):
        # A config that was checked before is settled.
        idle = (getattr(untrained, each.name), getattr(settled(untrained), each.name))
        given = getattr(train, each.name)
        if given not in idle:
            raise ValueError(
                f"{each.name}={given} does nothing here: it is read by models trained in steps only"
            )

"""A run of predict_series used again: rebuilt from its own config, on its own data or on other series."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame.console import say
from experiments.frame.start import data_folders
from experiments.series import future
from experiments.series.future import Ahead, spelled
from experiments.series.spread import Intervals, kind_of, read_intervals
from lmseq.config import series as series_config
from lmseq.config.knobs import from_json
from lmseq.config.series import SeriesConfig
from lmseq.contract import Model
from lmseq.data.covariates import known_until, read_units
from lmseq.data.dates import read_dates
from lmseq.data.frequencies import future_times, is_dates
from lmseq.data.future_rows import Sought, with_future
from lmseq.data.panel import Panel
from lmseq.data.prepared import PreparedPanel, SeriesSplit, with_units
from lmseq.data.series import load_panel, read_names, standardised, with_season
from lmseq.data.series import prepare as prepare_panel
from lmseq.data.series_types import Series
from lmseq.data.tables import is_number, quoted
from lmseq.files import named, read_json, read_text
from lmseq.models.build import model_of
from lmseq.recurrence.unrolled import Backend
from lmseq.training.checkpoint import digest, load_params
from lmseq.types import Params


class Saved(NamedTuple):
    """A fitted model of series, the series that it is to forecast, and how far, from where."""

    config: SeriesConfig
    model: Model
    params: Params
    intervals: Intervals
    panel: PreparedPanel
    horizon: int
    origins: list[int]

    def facts(self) -> dict[str, Any]:
        """What is forecast, by which parameters."""
        return self.panel.facts() | {"origins": sum(self.origins), "params_digest": digest(self.params)}


def prepare(options: Any) -> Saved:
    """The run that the options name and the series to forecast; ValueError where they do not fit."""
    folder = Path(options.run)
    config = _config_of(folder)
    panel = _other(config, options, _noted(folder)) if options.series else own_panel(config, folder)
    horizon = options.horizon or config.forecast.max_horizon
    origins = _origins(panel, options.from_date)
    panel = _told_ahead(config, options, panel, [origin + horizon for origin in origins])
    for note in panel.panel.notes:
        say(f"{panel.panel.name}: {note}")
    model = model_of(config, panel)
    _check_long_enough(config, model, panel)
    params = params_of(config, model, folder)
    return Saved(config, model, params, read_intervals(folder), panel, horizon, origins)


class Fitted(NamedTuple):
    """A fitted model of series, and the series that it was fitted to, in its units."""

    config: SeriesConfig
    panel: PreparedPanel
    model: Model
    params: Params


def load(folder: Path, backend: Backend = "auto") -> Fitted:
    """A run on its own data; ValueError where that is not there any more. backend: of `unroll_layer`."""
    config = _config_of(folder)
    panel = own_panel(config, folder)
    model = model_of(config, panel, backend)
    return Fitted(config, panel, model, params_of(config, model, folder))


def _config_of(folder: Path) -> SeriesConfig:
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected a run of predict_series in {folder}, but it has no config.json")
    with named(folder):
        config = from_json(read_text(folder / "config.json"), SeriesConfig, "predict_series")
        return series_config.check(config)


def run(workdir: Path, saved: Saved) -> dict[str, Any]:
    """Forecast, write the table, draw, sum up."""
    panel, intervals = saved.panel, saved.intervals
    ahead: list[Ahead] = future.forecast_ahead(
        saved.config, panel, saved.model, saved.params, intervals, saved.horizon, saved.origins
    )
    future.tell(panel, ahead, intervals, kind_of(saved.config, saved.horizon))
    future.write_table(workdir / "forecast.csv", panel, ahead)
    future.draw(workdir / "forecast.png", panel, ahead)
    say(f"{workdir}: forecast.csv  forecast.png  summary.json")
    return future.summary(panel, ahead, saved.config)


def own_panel(config: SeriesConfig, folder: Path) -> PreparedPanel:
    """The series that a run was made on; ValueError where they are not what they were."""
    own = prepare_panel(config, [each for each in data_folders() if each is not None])
    _check_same(folder, own)
    return own


def params_of(config: SeriesConfig, model: Model, folder: Path) -> Params:
    """The parameters that the run was judged by."""
    if config.model.model in series_config.BASELINES:
        return model.init(jax.random.key(0))  # there are none
    is_validated = series_config.trains(config) and series_config.has_validation(config.data)
    return load_params(folder, model, "best" if is_validated else "latest").params


def _noted(folder: Path) -> dict[str, Any]:
    """The facts of the data that the run was made on."""
    facts = read_json(folder / "series.json") if (folder / "series.json").is_file() else None
    if not isinstance(facts, dict):
        raise ValueError(f"{folder} has no series.json that can be read: restore it, or run again")
    return facts


def _check_same(folder: Path, own: PreparedPanel) -> None:
    if _noted(folder).get("sha256") != own.facts()["sha256"]:
        raise ValueError(
            f"the data of {own.panel.name} is not the one that {folder} was made on: restore it, or name the "
            "new file by --series"
        )


def _other(config: SeriesConfig, options: Any, noted: dict[str, Any]) -> PreparedPanel:
    """Other series, in the units of a scaler of their own; ValueError for columns that are not the run's."""
    columns = noted.get("columns") or []
    names = ("form", "time_column", "id_column", "decimal", "missing", "repair")
    data = dataclasses.replace(
        config.data,
        series=options.series,
        test_series="",
        columns=options.columns,
        **{name: getattr(options, name) for name in names},
    )
    panel = load_panel(dataclasses.replace(config, data=data))
    num_features = max(1, len(columns)) if data.channels == "joint" else 1
    if num_features > 1:
        panel = _chosen(panel, columns)
    widths = {each.values.shape[1] for each in panel.series}
    if widths != {num_features}:
        if num_features == 1 and len(panel.series) == 1:  # each column is a series
            panel = load_panel(
                dataclasses.replace(config, data=dataclasses.replace(data, channels="independent"))
            )
        else:
            raise ValueError(
                f"the run forecasts {num_features} values a step, {panel.name} has {max(widths)}: name as "
                "many by --columns"
            )
    members = []
    for series in panel.series:
        whole = SeriesSplit(len(series.values), len(series.values))
        members.append(standardised(config, with_season(config, panel, series, whole.train_end), whole))
    units = read_units(noted["covariates"]) if "covariates" in noted else None
    return with_units(PreparedPanel(panel, tuple(members)), units)


def _told_ahead(config: SeriesConfig, options: Any, panel: PreparedPanel, ends: list[int]) -> PreparedPanel:
    """The panel with what is known ahead up to some rows; ValueError where it is not."""
    data, own = config.data, read_names(config.data.known_columns)
    if options.future and not own:
        raise ValueError("the run reads no --known_columns: leave --future out")
    if not panel.covariates.known:
        return panel
    every, frequency = [each.series for each in panel.members], panel.panel.frequency
    if options.future:
        told = options if options.series else data
        sought = {
            name: getattr(options, name) or getattr(told, name) for name in ("time_column", "id_column")
        }
        every = with_future(
            every, Path(options.future), Sought(own, **sought, decimal=options.decimal), frequency, ends
        )
    members = [
        each._replace(
            series=series._replace(
                known=known_until(series, frequency, max(end, len(series.values)), has_calendar=data.calendar)
            )
        )
        for each, series, end in zip(panel.members, every, ends, strict=True)
    ]
    return with_units(panel._replace(members=tuple(members)), panel.units)


def _chosen(panel: Panel, columns: list[str]) -> Panel:
    """The run's columns, in its order; ValueError for one that is not there."""
    [series] = panel.series
    lacking = [name for name in columns if name not in series.columns]
    if lacking:
        raise ValueError(
            f"{panel.name} has no column {quoted(lacking[0])}, which the run forecasts: name another file"
        )
    places = [series.columns.index(name) for name in columns]
    filled = None if series.filled is None else series.filled[:, places]
    found = series._replace(columns=tuple(columns), values=series.values[:, places], filled=filled)
    return panel._replace(series=(found,))


def _check_long_enough(config: SeriesConfig, model: Model, panel: PreparedPanel) -> None:
    """ValueError for a series that is shorter than the window that the model reads."""
    needed = getattr(model, "memory", None) or 1
    short = next((each for each in panel.members if len(each.values) < needed), None)
    if short is not None:
        raise ValueError(
            f"expected at least {needed} values to forecast from, as the run reads so many, "
            f"{short.series.name} has {len(short.values)}: give more of it"
        )


def _origins(panel: PreparedPanel, from_date: str) -> list[int]:
    """How many values of each series come before the first time to forecast."""
    if not from_date:
        return [len(each.values) for each in panel.members]
    return [_origin(each.series, panel.panel.frequency, from_date) for each in panel.members]


def _origin(series: Series, frequency: str, from_date: str) -> int:
    """The place of a time, or of the first row after it; ValueError where nothing stands before it."""
    times = series.times if series.times is not None else np.arange(len(series.values))
    ends = np.concatenate([times, future_times(times, frequency, 1).astype(times.dtype)])
    if is_dates(times):
        at = read_dates([from_date])[0]
    elif is_number(from_date, "."):
        at = float(from_date)
    else:
        raise ValueError(
            f"expected --from as a number, as the times of {series.name} are, got {quoted(from_date)}"
        )
    origin = int(np.searchsorted(ends, at))
    if not 0 < origin < len(ends):
        raise ValueError(
            f"expected --from after {spelled(ends[:1])[0]} and up to {spelled(ends[-1:])[0]}, the step "
            f"after the last of {series.name}, got {quoted(from_date)}"
        )
    return origin

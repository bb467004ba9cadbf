"""The stages of a run on a series: series and model, fit, forecasts from everywhere."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.frame import show
from experiments.series import forecasts, judging, pages
from experiments.series.evaluate import evaluate
from experiments.series.forecasts import Forecasts
from experiments.series.judging import Judged
from experiments.series.loading import load
from experiments.series.spread import Intervals, calibrate, write_intervals
from lmseq.config.series import BASELINES, SeriesConfig, num_direct, segment_length, trains
from lmseq.contract import Model
from lmseq.data.series import PreparedPanel
from lmseq.models.build import fit_at_once, model_of
from lmseq.training.checkpoint import load_params, save_params
from lmseq.training.fit import Trained
from lmseq.training.job import Batches, Job
from lmseq.training.memory import check_carries, check_memory
from lmseq.training.objectives import make_objective
from lmseq.training.processes import is_first
from lmseq.training.sharding import check_batch, make_mesh
from lmseq.training.state import split_key
from lmseq.types import Params


class PreparedSeries(NamedTuple):
    """The config, the series and the model of a run."""

    config: SeriesConfig
    series: PreparedPanel
    model: Model


def prepare(config: SeriesConfig) -> PreparedSeries:
    """The series and the model of a config. Raises ValueError where they do not fit each other."""
    series = load(config)
    model = model_of(config, series)
    check_batch(make_mesh(), config.data.batch_size, config.train.accumulate_steps)
    check_memory(model, shard=config.train.shard)
    batch_size, num_paths = config.data.batch_size // jax.device_count(), config.forecast.num_paths
    rows = {"batch_size": batch_size, "num_paths": num_paths}
    if len(series.members) == 1 and getattr(model, "memory", None) is None:
        rows["num_points"] = len(series.only.values)  # each is an origin
    check_carries(model, rows)
    return PreparedSeries(config, series, model)


def run(workdir: Path, prepared: PreparedSeries, profile: range = range(0)) -> dict[str, Any]:
    """Fit or train, forecast, draw; the summary. Raises StoppedError when a signal stops the training.

    profile: steps to trace.
    """
    config, series, model = prepared
    key = jax.random.key(config.train.seed)
    trained = train(workdir, prepared, profile) if trains(config) else None
    if not is_first():
        return {}
    if trained is None:
        params = fit_at_once(config, series, model)
    else:
        params, key = chosen_params(workdir, model, trained), split_key(config.train.seed).after
    intervals = keep(workdir, prepared, params)
    if len(series.members) > 1:
        judged = judging.judge(config, series, model, params, intervals)
        judging.tell(judged)
        judging.write_tables(workdir, judged)
        judging.draw(workdir, judged)
        return _with_page(workdir, judged, judging.summary(judged))
    found = forecasts.forecast(config, series, model, params, intervals)
    forecasts.tell(found)
    forecasts.draw(workdir, found, key)
    return _with_page(workdir, found, forecasts.summary(found))


def _with_page(workdir: Path, found: Forecasts | Judged, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary, of which page.html is written."""
    pages.write(workdir, found, summary)
    return summary


def summary_of(config: SeriesConfig, series: PreparedPanel, model: Model, params: Params) -> dict[str, Any]:
    """The figures of a fitted model alone: nothing is told, written or drawn."""
    intervals = intervals_of(PreparedSeries(config, series, model), params)
    if len(series.members) > 1:
        return judging.summary(judging.judge(config, series, model, params, intervals))
    return forecasts.summary(forecasts.forecast(config, series, model, params, intervals))


def keep(workdir: Path, prepared: PreparedSeries, params: Params) -> Intervals:
    """What `experiments.forecast` needs of a run: parameters that no training has saved, and intervals."""
    if not trains(prepared.config) and prepared.config.model.model not in BASELINES:  # which have none
        save_params(workdir, params)
    found = intervals_of(prepared, params)
    write_intervals(workdir, found)
    return found


def intervals_of(prepared: PreparedSeries, params: Params) -> Intervals:
    """Quantiles of the errors of the validation part, as far ahead as forecasts are judged."""
    config, series, model = prepared
    horizon = max(config.forecast.max_horizon, num_direct(config))
    # Of a map that was fitted to the validation part too, errors there would say too little.
    apart = dataclasses.replace(config, model=dataclasses.replace(config.model, refit=False))
    judged = params if apart == config else fit_at_once(apart, series, model)
    return calibrate(series, model, judged, horizon)


def chosen_params(workdir: Path, model: Model, trained: Trained) -> Params:
    """The best by validation, where there is a validation part; else the last."""
    if trained.progress.best_step is None:
        return trained.params
    return load_params(workdir, model, "best").params


def train(workdir: Path, prepared: PreparedSeries, profile: range = range(0)) -> Trained:
    """Train on segments of the training part; profile: steps to trace."""
    config, series, model = prepared
    job = Job(
        model,
        series.train,
        config.train,
        Batches(config.data.batch_size, segment_length(config), series.partition),
        make_objective(config),
        workdir,
        partial(evaluate, series, model, num_direct(config)),
    )
    return show.run(job, f"{config.model.model}, {config.objective.objective}", "row", profile)

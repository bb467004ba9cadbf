"""The stages of a run on a series: series and model, fit, forecasts from everywhere."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.frame import show
from experiments.series import forecasts
from experiments.series.evaluate import evaluate
from experiments.series.loading import load
from lmseq.config.series import SeriesConfig, segment_length, trains
from lmseq.contract import Model
from lmseq.data.partition import sliding
from lmseq.data.series import Prepared
from lmseq.models.build import fit_at_once, model_of
from lmseq.training.fit import Trained
from lmseq.training.job import Batches, Job
from lmseq.training.memory import check_memory
from lmseq.training.objectives import make_objective
from lmseq.training.processes import is_first
from lmseq.training.sharding import check_batch, make_mesh
from lmseq.training.state import split_key


class PreparedSeries(NamedTuple):
    """The config, the series and the model of a run."""

    config: SeriesConfig
    series: Prepared
    model: Model


def prepare(config: SeriesConfig) -> PreparedSeries:
    """The series and the model of a config. Raises ValueError where they do not fit each other."""
    series = load(config)
    model = model_of(config, series)
    check_batch(make_mesh(), config.data.batch_size, config.train.accumulate_steps)
    check_memory(model, shard=config.train.shard)
    return PreparedSeries(config, series, model)


def run(workdir: Path, prepared: PreparedSeries) -> dict[str, Any]:
    """Fit or train, forecast, draw; the summary. Raises StoppedError when a signal stops the training."""
    config, series, model = prepared
    key = jax.random.key(config.train.seed)
    if trains(config):
        params, key = train(workdir, prepared).params, split_key(config.train.seed).after
    elif is_first():
        params = fit_at_once(config, series, model)
    if not is_first():
        return {}
    found = forecasts.forecast(config, series, model, params)
    forecasts.tell(found)
    forecasts.draw(workdir, found, key)
    return forecasts.summary(found)


def train(workdir: Path, prepared: PreparedSeries) -> Trained:
    """Train on segments of the training part."""
    config, series, model = prepared
    job = Job(
        model,
        series.train,
        config.train,
        Batches(config.data.batch_size, segment_length(config), sliding),
        make_objective(config),
        workdir,
        partial(evaluate, series, model),
    )
    return show.run(job, f"{config.model.model}, {config.objective.objective}", "row")

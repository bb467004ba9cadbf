"""Train a model of a time series and show the whole of its error: every origin, every horizon.

    python -m experiments.predict_series --series=noisy_sine --model=mlp --workdir=runs/sine
    python -m experiments.predict_series --series=load.csv --columns=load --model=gru --workdir=runs/load

One-step error is what everyone reports. Here the model also feeds on its own predictions, from every
origin of the test part, and stands beside the mean, persistence, the season, the drift and, where the
series has one, the error that is theoretically least. Interrupted runs continue, bit for bit.
"""

from experiments.frame import app  # first: it notes the time

from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments.frame import presets
from lmseq.config import knobs
from lmseq.config import series as series_config
from lmseq.config.series import SeriesConfig

flags.DEFINE_string("workdir", None, "folder of the run: created, continued or, when finished, reprinted")
app.define_presets(presets.PREDICT_SERIES)
NAMES = app.define_all_flags(SeriesConfig)


def fit(config: SeriesConfig, workdir: Path, prepared: Any, model: Any) -> Any:
    """What the training leaves."""
    from experiments.frame import training
    from experiments.series.prepared import evaluate
    from lmseq.data.partition import sliding
    from lmseq.training.job import Batches, Job
    from lmseq.training.objectives import make_objective, segment_length

    job = Job(
        model,
        prepared.train,
        config.train,
        Batches(config.data.batch_size, segment_length(config), sliding),
        make_objective(config),
        workdir,
        partial(evaluate, prepared, model),
    )
    return training.run(job, f"{config.model.model}, {config.objective.objective}", "row")


def run(config: SeriesConfig, workdir: Path, prepared: Any, model: Any) -> int:
    """The stages of a run: fit or train, forecast from everywhere, draw, sum up."""
    import jax

    from experiments.series import forecasts
    from experiments.series.prepared import fit_at_once
    from lmseq.training.state import split_key

    if series_config.trains(config):
        params = fit(config, workdir, prepared, model).params
        key = split_key(config.train.seed).after
    else:
        params = fit_at_once(config, prepared, model)
        key = jax.random.key(config.train.seed)
    judged = forecasts.judge(config, prepared, model, params)
    forecasts.tell(config, prepared, judged)
    forecasts.draw(config, workdir, prepared, model, params, judged, key)
    app.finish(workdir, forecasts.summary(config, prepared, params, judged))
    return 0


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    config = series_config.check(
        knobs.from_flat(app.values(NAMES, app.preset_of(presets.PREDICT_SERIES)), SeriesConfig)
    )
    workdir = Path(app.FLAGS.workdir)
    app.prepare_jax(config.train.host_devices)
    from experiments.series.prepared import model_of, prepare
    from lmseq.training.memory import check_memory
    from lmseq.training.sharding import check_batch, make_mesh

    prepared = prepare(config)
    model = model_of(config, prepared)
    check_batch(make_mesh(), config.data.batch_size)
    check_memory(model)
    with app.opened(workdir, config, prepared.facts(), "series.json") as finished:
        if finished is not None:
            print(finished)
            return 0
        return run(config, workdir, prepared, model)


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", "preset", *NAMES])

"""Train a model of a time series and show the whole of its error: every origin, every horizon.

    python -m experiments.predict_series --series=noisy_sine --model=mlp --workdir=runs/sine
    python -m experiments.predict_series --series=load.csv --columns=load --model=gru --workdir=runs/load

One-step error is what everyone reports. Here the model also feeds on its own predictions, from every
origin of the test part, and stands beside the mean, persistence, the season, the drift and, where the
series has one, the error that is theoretically least. Interrupted runs continue, bit for bit.

Without a preset, a net (mlp or a recurrent cell) is trained for use: by a direct head up to 64 steps ahead,
from up to 64 values read first, with weight decay; the tenth before the test part chooses the checkpoint.
A short series gets shorter windows. --preset=one_step has the plain settings that stand below as defaults.

--extend=STEPS beside the flags of a run goes on to so many steps in all, under schedules that have no end.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.frame import presets
from experiments.frame.experiment import Call, Experiment, main
from experiments.frame.profile import ProfileOptions, read_steps
from lmseq.config import knobs, series
from lmseq.config.training import lengthened


def implied(settings: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """What suits a net on a series of this length; nothing where a preset says all."""
    from experiments.series.loading import num_points_of

    if settings["preset"] != presets.none.__name__ or settings["model"] not in series.NETS:
        return {}
    known = {name: settings[name] for name in knobs.names_of(series.SeriesConfig)}
    num_points = num_points_of(knobs.from_flat(known, series.SeriesConfig))
    return series.net_settings(known, given, num_points) if num_points > 0 else {}


def of_length(config: series.SeriesConfig, num_train_steps: int) -> series.SeriesConfig:
    """The config of the same run with so many steps in all; ValueError where it would not begin alike."""
    if not series.trains(config):
        raise ValueError(f"extend is for models trained in steps, {config.model.model} is fitted at once")
    if config.objective.objective == "scheduled_sampling":
        raise ValueError(
            "extend is not for objective scheduled_sampling, whose share of own predictions grows until "
            f"num_train_steps: give --num_train_steps={num_train_steps} and another --workdir"
        )
    return series.check(replace(config, train=lengthened(config.train, num_train_steps)))


def prepare(call: Call) -> Any:
    """The series and the model, checked for fit."""
    from experiments.series import stages

    _traced(call)
    return stages.prepare(call.config)


def _traced(call: Call) -> range:
    """The steps to trace; ValueError for any of a model that has no steps."""
    if call.options.profile_steps and not series.trains(call.config):
        raise ValueError(
            f"expected --profile_steps of a model that is trained in steps, {call.config.model.model} is "
            "fitted at once: leave it out"
        )
    return read_steps(call.options, call.config.train)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Fit or train, forecast from everywhere, draw, sum up."""
    from experiments.series import stages

    return stages.run(workdir, prepared, _traced(call))


EXPERIMENT = Experiment(
    module="experiments.predict_series",
    doc=__doc__,
    config=series.SeriesConfig,
    presets=presets.PREDICT_SERIES,
    implied=implied,
    check=series.check,
    options=ProfileOptions,
    of_length=of_length,
    prepare=prepare,
    facts=lambda prepared: prepared.series.facts(),
    facts_file="series.json",
    run=run,
    many_processes=True,
    metrics=(("one_step_rmse",), ("rmse_at_16",)),
)

if __name__ == "__main__":
    main(EXPERIMENT)

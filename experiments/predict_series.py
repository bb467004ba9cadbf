"""Train a model of a time series and show the whole of its error: every origin, every horizon.

    python -m experiments.predict_series --series=noisy_sine --model=mlp --workdir=runs/sine
    python -m experiments.predict_series --series=load.csv --columns=load --model=gru --workdir=runs/load

One-step error is what everyone reports. Here the model also feeds on its own predictions, from every
origin of the test part, and stands beside the mean, persistence, the season, the drift and, where the
series has one, the error that is theoretically least. Interrupted runs continue, bit for bit.
"""

from pathlib import Path
from typing import Any

from experiments.frame import presets
from experiments.frame.experiment import Call, Experiment, main
from lmseq.config import series


def prepare(call: Call) -> Any:
    """The series and the model, checked for fit."""
    from experiments.series import stages

    return stages.prepare(call.config)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Fit or train, forecast from everywhere, draw, sum up."""
    from experiments.series import stages

    return stages.run(workdir, prepared)


EXPERIMENT = Experiment(
    module="experiments.predict_series",
    doc=__doc__,
    config=series.SeriesConfig,
    presets=presets.PREDICT_SERIES,
    check=series.check,
    prepare=prepare,
    facts=lambda prepared: prepared.series.facts(),
    facts_file="series.json",
    run=run,
    many_processes=True,
    metrics=(("one_step_rmse",), ("rmse_at_16",)),
)

if __name__ == "__main__":
    main(EXPERIMENT)

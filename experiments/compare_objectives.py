"""One step or many: what each objective does to the error k steps ahead, in one table.

    python -m experiments.compare_objectives --series=mackey_glass --workdir=runs/objectives

A model that is trained on true values alone meets its own errors only in use, where they accumulate. Against
that stand: loss through several own steps, scheduled sampling, noise on inputs, and a head that predicts
several steps at once. Each is trained from the same seeds; the table has 95 % intervals over them.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.frame.experiment import Call, Experiment, main
from lmseq.config import knobs, series
from lmseq.config.knobs import knob
from lmseq.config.training import settled


@dataclass(frozen=True)
class SeedsConfig:
    """How often each objective is trained."""

    num_seeds: int = knob(3, "trainings with each objective; at least 2")


@dataclass(frozen=True)
class CompareConfig(series.SeriesConfig):
    """A run on a series, several times."""

    seeds: SeedsConfig = field(default_factory=SeedsConfig)


def check(config: CompareConfig) -> CompareConfig:
    """ValueError for a setting out of range."""
    series.check(dataclasses.replace(config, objective=series.ObjectiveConfig()))
    series.check_objective(config.objective)
    knobs.at_least(2, num_ahead=config.objective.num_ahead, num_seeds=config.seeds.num_seeds)
    if not series.trains(config):
        raise ValueError(f"expected a model that is trained step by step, got {config.model.model}")
    return dataclasses.replace(config, train=settled(config.train))


def prepare(call: Call) -> Any:
    """The series; the longest segments are those of several steps ahead."""
    from experiments.series import remedies

    return remedies.prepare(call.config)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Train with each objective from each seed, compare, draw."""
    from experiments.series import remedies

    return remedies.compare(workdir, call.config, prepared)


EXPERIMENT = Experiment(
    module="experiments.compare_objectives",
    doc=__doc__,
    config=CompareConfig,
    left_out=("objective",),
    check=check,
    prepare=prepare,
    facts_file="series.json",
    run=run,
)

if __name__ == "__main__":
    main(EXPERIMENT)

"""Run an experiment over settings and seeds, a grid or a search; tables with intervals, a picture.

    python -m experiments.ablate --experiment=predict_series --sweep="tau=1,2,4,8,16" --seeds=8 \\
        --compare="tau=4" --workdir=runs/tau
    python -m experiments.ablate --experiment=train_lm --fixed="num_train_steps=500" --seeds=5 \\
        --sweep="hidden_size=64,128 learning_rate=1e-3,3e-3" --workdir=runs/sizes
    python -m experiments.ablate --experiment=train_lm --trials=64 --halving=4 --workdir=runs/search \\
        --search="learning_rate=1e-4..1e-1:log dropout=0..0.6"

Seeds, and settings that are only numbers, of train_lm and predict_series are trained in one program; every
other cell is a process. A search draws settings; the best go on by successive halving, and what the last one
is worth is said from fresh seeds. What is done stays done: the same command goes on where it was stopped or
killed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.ablation.design import Design, SweepConfig, find_setting, read_design
from experiments.ablation.trials import read_trials
from experiments.frame.experiment import Call, Experiment, main
from lmseq.config.knobs import knob


@dataclass(frozen=True)
class TableOptions:
    """What is shown of an ablation."""

    metrics: str = knob("", "columns that are shown, separated by commas; empty: those that suit")
    compare: str = knob("", "a setting, such as 'tau=4', that all others are compared with, seed by seed")
    best: Literal["least", "most"] = knob("least", "whether little or much of the first metric is good")
    retry_failed: bool = knob(False, "run cells again that failed before")
    dry_run: bool = knob(False, "print cells, programs and costs, and write nothing")


def prepare(call: Call) -> Design:
    """What is to be run, checked."""
    design = read_design(call.config)
    if design.config.search:
        if call.options.compare or call.options.best != "least":
            raise ValueError("--search finds the least validation loss: leave --compare and --best out")
        read_trials(design)
    return design


def dry_run(call: Call) -> int | None:
    """Print what the ablation would cost, where that is asked for."""
    design = prepare(call)
    if call.options.compare:
        find_setting(design, call.options.compare)
    if not call.options.dry_run:
        return None
    if design.config.search:
        from experiments.ablation import found_trials

        print(found_trials.plan(design, read_trials(design)))
        return 0
    from experiments.ablation import costs

    print(costs.plan(design, call.keep_programs))
    return 0


def run(call: Call, workdir: Path, design: Design) -> dict[str, Any]:
    """Run what is missing, with the tables written after every group; then the picture and the summary."""
    from experiments.ablation import stages

    return stages.run(workdir, design, call)


EXPERIMENT = Experiment(
    module="experiments.ablate",
    doc=__doc__,
    config=SweepConfig,
    options=TableOptions,
    without_workdir=dry_run,
    num_devices=None,
    prepare=prepare,
    facts_file="ablation.json",
    run=run,
    status=lambda summary: int(summary["num_failed"] == summary["num_cells"]),
    runs_again=lambda call: bool(call.given & set(TableOptions.__dataclass_fields__)),
    noun="ablation",
)

if __name__ == "__main__":
    main(EXPERIMENT)

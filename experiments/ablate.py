"""Run an experiment over a grid of settings and seeds; a table with intervals, a picture, paired differences.

    python -m experiments.ablate --experiment=predict_series --sweep="tau=1,2,4,8,16" --seeds=8 \\
        --compare="tau=4" --workdir=runs/tau
    python -m experiments.ablate --experiment=train_lm --fixed="num_train_steps=500" --seeds=5 \\
        --sweep="hidden_size=64,128 learning_rate=1e-3,3e-3" --workdir=runs/sizes

Seeds, and settings that are only numbers, of train_lm and predict_series are trained in one program; every
other cell is a process. What is done stays done: the same command goes on where it was stopped or killed.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments.ablation import design
from experiments.ablation.design import AblationConfig, Design, Setting
from experiments.frame.console import say
from experiments.frame.workdir import finish, opened
from lmseq.config import knobs

flags.DEFINE_string(
    "workdir", None, "folder of the ablation: created, continued or, when finished, reprinted"
)
flags.DEFINE_string("metrics", "", "columns that are shown, separated by commas; empty: those that suit")
flags.DEFINE_string(
    "compare", "", "a setting, such as 'tau=4', that all others are compared with, seed by seed"
)
flags.DEFINE_enum("best", "least", ["least", "most"], "whether little or much of the first metric is good")
flags.DEFINE_bool("retry_failed", False, "run cells again that failed before")
flags.DEFINE_bool("dry_run", False, "print cells, programs and costs, and write nothing")
NAMES = app.define_all_flags(AblationConfig)
REPORT = ["metrics", "compare", "best", "retry_failed", "dry_run"]


def run(design: Design, workdir: Path, reference: Setting | None) -> int:
    """Run what is missing, with the tables written after every group; then the picture and the summary."""
    from experiments.ablation import running, tables

    def write(done: dict[str, Any]) -> tuple[tables.Found, list[str], str]:
        found = tables.found_of(design, done)
        metrics = tables.choose_metrics(found, app.FLAGS.metrics)
        return found, metrics, tables.write_all(workdir, found, metrics, reference)

    done = running.run_cells(design, workdir, app.FLAGS.retry_failed, write)
    found, metrics, text = write(done)
    draw(workdir, found, metrics)
    say(text.rstrip())
    summary = tables.summary(found, metrics, app.FLAGS.best)
    seconds = sum(record["seconds"] for record in done.values())
    finish(workdir, summary | {"seconds": seconds, "wall_seconds": seconds()})
    return int(summary["num_failed"] == summary["num_cells"])


def draw(workdir: Path, found: Any, metrics: list[str]) -> None:
    """ablation.png, where any metric is a number."""
    from experiments.ablation.curves import panels_of
    from lmseq import plotting

    panels = panels_of(found.rows, found.names, metrics)
    if panels:
        plotting.save_figure(plotting.draw_panels(panels), workdir / "ablation.png")


def main() -> int:
    config = knobs.from_flat(app.values(NAMES), AblationConfig)
    plan = design.read_design(config)
    reference = design.find_setting(plan, app.FLAGS.compare) if app.FLAGS.compare else None
    if app.FLAGS.dry_run:
        from experiments.ablation import costs

        print(costs.plan(plan))
        return 0
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the ablation is written to")
    workdir = Path(app.FLAGS.workdir)
    with opened(workdir, config, plan.facts(), "ablation.json") as finished:
        again = any(app.FLAGS[name].present for name in REPORT)
        if finished is not None and not again:
            print(finished)
            summary = json.loads(finished)
            return int(summary["num_failed"] == summary["num_cells"])
        return run(plan, workdir, reference)


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", *NAMES, *REPORT])

"""One step or many: what each objective does to the error k steps ahead, in one table.

    python -m experiments.compare_objectives --series=mackey_glass --workdir=runs/objectives

A model that is trained on true values alone meets its own errors only in use, where they accumulate. Against
that stand: loss through several own steps, scheduled sampling, noise on inputs, and a head that predicts
several steps at once. Each is trained from the same seeds; the table has 95 % intervals over them.
"""

from experiments.frame import app  # first: it notes the time

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import flags

from lmseq.config import knobs
from lmseq.config import series as series_config
from lmseq.config.knobs import knob
from lmseq.config.series import ObjectiveConfig, SeriesConfig


@dataclass(frozen=True)
class SeedsConfig:
    """How often each objective is trained."""

    num_seeds: int = knob(3, "trainings with each objective; at least 2")


@dataclass(frozen=True)
class CompareConfig(SeriesConfig):
    """A run on a series, several times."""

    seeds: SeedsConfig = field(default_factory=SeedsConfig)


flags.DEFINE_string("workdir", None, "folder of the run: created, continued or, when finished, reprinted")
NAMES = [name for name in app.define_all_flags(CompareConfig) if name != "objective"]


def judge(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The table: RMSE at each horizon, with intervals, the least in each column marked."""
    from experiments.series.forecasts import HORIZONS
    from experiments.frame.measuring import flat, interval
    from experiments.series.remedies import OBJECTIVES

    summary: dict[str, Any] = {}
    shown = [k for k in HORIZONS if k <= len(records[0]["rmse"])]
    found = {
        (objective, k): interval([r["rmse"][k - 1] for r in records if r["objective"] == objective])
        for objective in OBJECTIVES
        for k in shown
    }
    least = {k: min(OBJECTIVES, key=lambda objective: found[objective, k].mean) for k in shown}
    app.say(f"{'RMSE, k steps ahead':<22}" + "".join(f"{k:>30}" for k in shown))
    for objective in OBJECTIVES:
        cells = (f"{found[objective, k]}{'*' if least[k] == objective else ' '}" for k in shown)
        app.say(f"{objective:<22}" + "".join(f"{cell:>30}" for cell in cells))
        for k in shown:
            summary |= flat(f"{objective}_rmse_at_{k}", found[objective, k])
    return summary | {f"least_at_{k}": objective for k, objective in least.items()}


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    config = knobs.from_flat(app.values(NAMES), CompareConfig)
    series_config.check(dataclasses.replace(config, objective=ObjectiveConfig()))
    series_config.check_objective(config.objective)
    knobs.at_least(2, num_ahead=config.objective.num_ahead, num_seeds=config.seeds.num_seeds)
    if not series_config.trains(config):
        raise ValueError(f"expected a model that is trained step by step, got {config.model.model}")
    workdir = Path(app.FLAGS.workdir)
    app.prepare_jax(config.train.host_devices)
    from experiments.frame.measuring import measured
    from experiments.series import objectives_figure
    from experiments.series.remedies import ErrorCurves, OBJECTIVES
    from experiments.series.prepared import model_of, prepare
    from experiments.frame.training import check_fits
    from lmseq import plotting
    from lmseq.training.sharding import check_batch, make_mesh

    # The longest segments are those of several steps ahead.
    longest = dataclasses.replace(config.objective, objective="unrolled")
    prepared = prepare(dataclasses.replace(config, objective=longest))
    check_batch(make_mesh(), config.data.batch_size)
    check_fits(model_of(config, prepared))
    with app.opened(workdir, config, prepared.facts(), "series.json") as finished:
        if finished is not None:
            print(finished)
            return 0
        seeds = range(config.train.seed, config.train.seed + config.seeds.num_seeds)
        units = [{"objective": objective, "seed": seed} for objective in OBJECTIVES for seed in seeds]
        records = list(measured(workdir, units, ErrorCurves(config, prepared)))
        title = f"{prepared.series.name}: {config.model.model}"
        panel = objectives_figure.panel(records, title)
        plotting.save_figure(plotting.draw_panels([panel]), workdir / "objectives.png")
        app.finish(workdir, {"series": prepared.series.name, **judge(records), "wall_seconds": app.seconds()})
    return 0


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", *NAMES])

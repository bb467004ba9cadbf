"""Average the parameters of runs of one model, or of several checkpoints of one run.

    python -m experiments.average --runs=runs/a,runs/b --workdir=runs/mean
    python -m experiments.average --runs=runs/a:2000,runs/a:3000,runs/a:best --workdir=runs/mean

What comes of it is a run too: it is scored, sampled from, mixed and begun with (--init_from) like any other.
Averages help where runs began alike: as checkpoints of one run do, and runs with the same --init_from. Those
of runs from different seeds are of no use. The losses of the mean stand beside those of each run.
"""

from pathlib import Path
from typing import Any

from experiments.frame.experiment import Call, Experiment, main
from lmseq.config import mixture


def prepare(call: Call) -> Any:
    """The runs, checked for fit."""
    from experiments.text import averaging

    return averaging.prepare(call.config)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Average, score, keep."""
    from experiments.text import averaging

    return averaging.average(workdir, prepared)


EXPERIMENT = Experiment(
    module="experiments.average",
    doc=__doc__,
    config=mixture.AverageConfig,
    check=mixture.check_average,
    num_devices=lambda config: 1,
    prepare=prepare,
    facts=lambda prepared: prepared.noted,
    facts_file="corpus.json",
    run=run,
    noun="average",
)

if __name__ == "__main__":
    main(EXPERIMENT)

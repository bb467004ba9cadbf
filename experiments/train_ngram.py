"""Count n-grams of a text and make a model of them: any order, any of eight estimators, in seconds.

    python -m experiments.train_ngram --corpus=ptb --level=word --order=5 --workdir=runs/ptb5
    python -m experiments.train_ngram --corpus=mybook.txt --order=7 --discount_fallback --workdir=runs/mine

The run is scored and sampled from as a neural one is; --write_arpa writes it for other tools. Words are what
stands between blanks, and a line is a sentence; characters, bytes and sub-words are one sentence.
"""

from experiments.frame import app  # first: it notes the time

import resource
import shutil
import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments.frame import presets
from lmseq.config import knobs
from lmseq.config import counts as counts_config
from lmseq.config.counts import NgramConfig

flags.DEFINE_string("workdir", None, "folder of the run: created, or, when finished, reprinted")
app.define_presets(presets.TRAIN_NGRAM)
NAMES = app.define_all_flags(NgramConfig)


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    config = counts_config.check(
        knobs.from_flat(app.values(NAMES, app.preset_of(presets.TRAIN_NGRAM)), NgramConfig)
    )
    workdir = Path(app.FLAGS.workdir)
    from experiments.counts.loading import load_counted

    start = time.monotonic()
    counted = load_counted(config.text)
    reading = time.monotonic() - start
    with app.opened(workdir, config, counted.facts(), "corpus.json") as finished:
        if finished is not None:
            print(finished)
            return 0
        return run(config, workdir, counted, reading)


def run(config: NgramConfig, workdir: Path, counted: Any, reading: float) -> int:
    """The stages of a run: count, estimate, save, evaluate, compare orders, draw, sum up."""
    from experiments.counts import stages

    memory = counts_config.memory_bytes(config.count)
    scratch = workdir / ".scratch" if memory else None
    shutil.rmtree(workdir / ".scratch", ignore_errors=True)  # of a run that was interrupted
    try:
        made = stages.make(config, counted, workdir, scratch)
        seconds = {"reading": reading, **made.seconds}
        app.say("   ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items()))
        figures = stages.figures(made.tables, counted)
        rows = stages.by_order(config, counted, made, figures, scratch)
        stages.draw(config, workdir, counted, rows)
        if config.count.write_arpa:
            stages.write(workdir, counted, made.tables)
        summary = stages.summary(config, counted, made, rows) | figures
        summary |= {f"seconds_{name}": spent for name, spent in seconds.items()}
        summary["seconds_to_tables"] = sum(seconds.values())
        summary["peak_memory_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        summary["wall_seconds"] = app.seconds()
    finally:
        shutil.rmtree(workdir / ".scratch", ignore_errors=True)
    app.finish(workdir, summary)
    return 0


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", "preset", *NAMES])

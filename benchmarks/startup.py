"""Start-up: --help, and seconds from a process's start to its first steps, with and without kept programs.

    python -m benchmarks.startup

`help` is the whole of `train_lm --help`. Then a short training is started in new folders: `without` with
--nocompilation_cache, `first` with an empty folder of kept programs, and `again` with what the first left
there. The seconds are those of `seconds_to_first_step`, which counts from the process's start to the end of
the first dispatch. The last line is a JSON object with `seconds`, medians.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from absl import flags

from benchmarks.measure import hardware, publish, run_process, versions, wait_until_idle
from experiments.frame.command import main_with_flags
from experiments.frame.console import say

flags.DEFINE_string("corpus", "python_docs", "what is trained on")
flags.DEFINE_string("model", "gru", "the model that is trained")
flags.DEFINE_integer("rounds", 5, "starts of each kind, of which the median counts")
flags.DEFINE_bool("quick", False, "one start, with an empty folder: to see that all works")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["corpus", "model", "rounds", "quick", "output"]


def first_step(folder: Path, name: str, *more: str) -> float:
    """Seconds to the first dispatch of ten steps of a training in a new folder."""
    command = [sys.executable, "-m", "experiments.train_lm", f"--workdir={folder / name}"]
    command += [
        f"--corpus={flags.FLAGS.corpus}",
        f"--model={flags.FLAGS.model}",
        "--num_train_steps=60",
        *more,
    ]
    wait_until_idle()
    run_process([*command, "--steps_per_dispatch=10", "--horizon_origins=1", "--horizon_samples=1"])
    return json.loads((folder / name / "summary.json").read_text())["seconds_to_first_step"]


def main() -> int:
    rounds = 1 if flags.FLAGS.quick else flags.FLAGS.rounds
    if rounds < 1:
        raise ValueError(f"expected rounds of at least 1, got {rounds}")
    seconds: dict[str, list[float]] = {"help": [], "first": [], "again": [], "without": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            wait_until_idle()
            asked = run_process([sys.executable, "-m", "experiments.train_lm", "--help"])
            seconds["help"].append(asked.seconds)
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
            os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            seconds["first"].append(first_step(folder, "first"))
            if not flags.FLAGS.quick:
                seconds["again"].append(first_step(folder, "again"))
                seconds["without"].append(first_step(folder, "without", "--nocompilation_cache"))
        say(f"round {number + 1}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in seconds.items() if v))
    medians = {kind: statistics.median(values) for kind, values in seconds.items() if values}
    found = {"hardware": hardware(), "versions": versions("jax", "jaxlib", "flax"), "seconds": medians}
    publish(found | {"all": seconds}, flags.FLAGS.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

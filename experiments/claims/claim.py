"""The frame of a claim: a sentence, its settings, what measures it, and the run that they make.

Every claim is a script: it writes figures, a picture and a verdict, which is computed from intervals and may
be `holds`, `fails` or `undecided`. `experiments.claims` runs them all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.frame.console import say
from experiments.frame.start import num_cores, prepare_jax, seconds
from experiments.frame.workdir import finish, opened
from lmseq.config import knobs
from lmseq.training.metrics import read_records


class Claim(NamedTuple):
    """A sentence that measurements may contradict.

    kind: the class of its config, sections of knobs. quick: settings under --quick. check: returns a config,
    or raises ValueError. facts: what the data are, noted beside the run and compared when it goes on; the
    first is its name. measure: the summary, `verdict` and `checks` in it, of a config and the run's folder,
    where it also draws the `pictures`.
    """

    sentence: str
    pictures: tuple[str, ...]
    kind: type
    quick: dict[str, Any]
    check: Callable[[Any], Any]
    facts: Callable[[Any], dict[str, Any]]
    measure: Callable[[Any, Path], dict[str, Any]]


def define(claim: Claim) -> list[str]:
    """The flags of a claim's script; returns their names."""
    flags.DEFINE_string("workdir", None, "folder of the run: created, continued or, when finished, reprinted")
    flags.DEFINE_bool("quick", False, "fewer seeds, fewer steps, less data; explicit flags win")
    return app.define_all_flags(claim.kind)


def main(claim: Claim, names: list[str]) -> int:
    """Run a claim; the exit status is 1 where it fails."""
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    config = claim.check(
        knobs.from_flat(app.values(names, claim.quick if app.FLAGS.quick else {}), claim.kind)
    )
    workdir = Path(app.FLAGS.workdir)
    prepare_jax(num_cores())
    with opened(workdir, config, claim.facts(config), "data.json") as finished:
        if finished is not None:
            print(finished)
            return json.loads(finished)["verdict"] == "fails"
        say(claim.sentence)
        summary = {"claim": claim.sentence, "pictures": claim.pictures, **claim.measure(config, workdir)}
        spent = sum(record["seconds"] for record in read_records(workdir / "metrics.jsonl"))
        finish(workdir, summary | {"measuring_seconds": spent, "wall_seconds": seconds()})
    return summary["verdict"] == "fails"


def run(claim: Claim, doc: str) -> None:
    """What `python -m experiments.NAME` does."""
    names = define(claim)
    app.run(lambda: main(claim, names), doc, ["workdir", "quick", *names])

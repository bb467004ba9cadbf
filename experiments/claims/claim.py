"""The frame of a claim: a sentence, what measures it, and the experiment that they make.

Every claim is an experiment: it writes figures, a picture and a verdict, which is computed from intervals and
may be `holds`, `fails` or `undecided`. `experiments.claims` runs them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.frame.console import say
from experiments.frame.experiment import Call, Experiment
from lmseq.compiled import num_cores
from lmseq.training.metrics import read_records


@dataclass(frozen=True, kw_only=True, eq=False)
class Claim(Experiment):
    """An experiment on a sentence that measurements may contradict, with pictures in its folder."""

    sentence: str
    pictures: tuple[str, ...]


def make_claim(
    *,
    module: str,
    doc: str,
    sentence: str,
    pictures: tuple[str, ...],
    config: type,
    quick: Mapping[str, Any],
    check: Callable[[Any], Any],
    facts: Callable[[Any], dict[str, Any]],
    measure: Callable[[Any, Path], dict[str, Any]],
) -> Claim:
    """The experiment of a claim.

    facts: what the data of a config are, the first its name. measure: the summary, with `verdict` and
    `checks` in it, of a config and the run's folder, where it also draws the pictures.
    """

    def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
        say(sentence)
        found = {"claim": sentence, "pictures": pictures, **measure(call.config, workdir)}
        spent = sum(record["seconds"] for record in read_records(workdir / "metrics.jsonl"))
        return found | {"measuring_seconds": spent}

    return Claim(
        module=module,
        doc=doc,
        sentence=sentence,
        pictures=pictures,
        config=config,
        quick=quick,
        check=check,
        prepare=lambda call: facts(call.config),
        facts=lambda noted: noted,
        run=run,
        status=lambda summary: int(summary["verdict"] == "fails"),
        num_devices=lambda config: num_cores(),
    )

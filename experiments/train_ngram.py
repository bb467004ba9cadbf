"""Count n-grams of a text and make a model of them: any order, any of eight estimators, in seconds.

    python -m experiments.train_ngram --corpus=ptb --level=word --order=5 --workdir=runs/ptb5
    python -m experiments.train_ngram --corpus=mybook.txt --order=7 --discount_fallback --workdir=runs/mine

The run is scored and sampled from as a neural one is; --write_arpa writes it for other tools. Words are what
stands between blanks, and a line is a sentence; characters, bytes and sub-words are one sentence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.frame import presets
from experiments.frame.experiment import Call, Experiment, main
from lmseq.config import counts


def implied(settings: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """The settings of the text, where it is a store of tokens."""
    from experiments.text.loading import stored_settings

    return stored_settings(settings["corpus"])


def prepare(call: Call) -> Any:
    """The marked sentences of the text."""
    from experiments.counts import stages

    return stages.prepare(call.config, call.given)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Count, estimate, save, score, compare orders, draw, sum up."""
    from experiments.counts import stages

    return stages.run(call.config, workdir, prepared)


EXPERIMENT = Experiment(
    module="experiments.train_ngram",
    doc=__doc__,
    config=counts.NgramConfig,
    presets=presets.TRAIN_NGRAM,
    implied=implied,
    check=counts.check,
    num_devices=None,
    prepare=prepare,
    facts=lambda prepared: prepared.counted.facts(),
    facts_file="corpus.json",
    run=run,
)

if __name__ == "__main__":
    main(EXPERIMENT)

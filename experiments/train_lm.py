"""Train a language model on a text; watch it, stop it, resume it; evaluate, sample, draw.

    python -m experiments.train_lm --corpus=python_docs --workdir=runs/demo

The same command continues an interrupted run, bit for bit, and reprints a finished one's summary.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.frame import presets
from experiments.frame.experiment import Call, Experiment, main
from lmseq.config import language_model


def implied(settings: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """The settings of the text, where it is a store of tokens."""
    from experiments.text.loading import stored_settings

    return stored_settings(settings["corpus"])


def prepare(call: Call) -> Any:
    """The text and the model, checked for fit."""
    from experiments.text import stages

    return stages.load(call.config, call.given)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Train, evaluate, draw, sum up."""
    from experiments.text import stages

    return stages.run(workdir, prepared)


EXPERIMENT = Experiment(
    module="experiments.train_lm",
    doc=__doc__,
    config=language_model.LanguageModelConfig,
    presets=presets.TRAIN_LM,
    implied=implied,
    check=language_model.check,
    prepare=prepare,
    facts=lambda prepared: prepared.texts.facts(),
    facts_file="corpus.json",
    run=run,
    many_processes=True,
    metrics=(("test_loss", "valid_loss"),),
)

if __name__ == "__main__":
    main(EXPERIMENT)

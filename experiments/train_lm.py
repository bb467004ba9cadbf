"""Train a language model on a text; watch it, stop it, resume it; evaluate, sample, draw.

    python -m experiments.train_lm --preset=python_docs --workdir=runs/demo

The same command continues an interrupted run, bit for bit, and reprints a finished one's summary. With
--extend=STEPS beside, it goes on to so many steps in all, under schedules that have no end. --init_from=RUN
begins with the parameters of another run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.frame import presets
from experiments.frame.experiment import Call, Experiment, main
from experiments.frame.profile import ProfileOptions, read_steps
from lmseq.config import language_model


def implied(settings: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """The settings of the text, where it is a store of tokens."""
    from experiments.text.loading import stored_settings

    if {"num_epochs", "num_train_steps"} <= given:
        raise ValueError("--num_epochs and --num_train_steps both say how long the run is: give one of them")
    return stored_settings(settings["corpus"])


def prepare(call: Call) -> Any:
    """The text and the model, checked for fit."""
    from experiments.text import stages

    prepared = stages.load(call.config, call.given, call.workdir)
    read_steps(call.options, prepared.config.train)
    return prepared


def facts(prepared: Any) -> dict[str, Any]:
    """What is noted of the text, and of the run that this one begins with."""
    from experiments.text import stages

    return stages.facts(prepared)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Train, evaluate, draw, sum up."""
    from experiments.text import stages

    return stages.run(workdir, prepared, read_steps(call.options, prepared.config.train))


EXPERIMENT = Experiment(
    module="experiments.train_lm",
    doc=__doc__,
    config=language_model.LanguageModelConfig,
    presets=presets.TRAIN_LM,
    implied=implied,
    check=language_model.check,
    prepare=prepare,
    facts=facts,
    settled=lambda config, prepared: prepared.config,
    options=ProfileOptions,
    of_length=language_model.of_length,
    facts_file="corpus.json",
    run=run,
    many_processes=True,
    metrics=(("test_loss", "valid_loss"),),
)

if __name__ == "__main__":
    main(EXPERIMENT)

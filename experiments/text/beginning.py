"""A language model's run that begins with the parameters and the vocabulary of another."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from experiments.frame.console import say
from lmseq import runs
from lmseq.config.language_model import LanguageModelConfig, model_differences
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.tokens import Vocab
from lmseq.files import read_json, read_text
from lmseq.runs import Run
from lmseq.training.beginning import begun_with, init_state
from lmseq.training.checkpoint import digest, load_state, save_first, steps_kept
from lmseq.training.processes import of_first
from lmseq.types import Params


class Beginning(NamedTuple):
    """The vocabulary, what is noted of the other run, its parameters, and its optimiser's state if wanted.

    params is None in a run that has checkpoints of its own, and needs the other one no more.
    """

    vocab: Vocab
    facts: dict[str, Any]
    params: Params | None = None
    opt_state: optax.OptState | None = None


def beginning_of(config: LanguageModelConfig, workdir: Path | None) -> Beginning | None:
    """What init_from names; None where it names nothing. Raises ValueError for what cannot be begun with."""
    if not config.course.init_from:
        return None
    noted = _noted(config, workdir)
    if noted is not None and steps_kept(workdir):
        return Beginning(Vocab.from_json(read_text(workdir / "vocab.json")), noted)
    found = _from_run(config)
    if noted is not None and noted["params_digest"] != found.facts["params_digest"]:
        raise ValueError(
            f"{config.course.init_from} is at step {found.facts['step']} now, and not what {workdir} began "
            f"with, step {noted['step']}: name that step, or choose another --workdir"
        )
    return found


def write(workdir: Path, beginning: Beginning, model: Model, train: TrainConfig, batch_size: int) -> None:
    """Save the beginning as the checkpoint of step 0, from where the training goes on."""

    def save() -> None:
        say(f"beginning with the parameters of {beginning.facts['path']}, step {beginning.facts['step']}")
        save_first(workdir, begun_with(model, train, batch_size, beginning.params, beginning.opt_state))

    if beginning.params is not None:
        of_first(save)


def _noted(config: LanguageModelConfig, workdir: Path | None) -> dict[str, Any] | None:
    """What a run has noted of its beginning; None of a new one, or of one that began with something else."""
    if workdir is None or not (workdir / "config.json").is_file():
        return None
    began = read_json(workdir / "config.json")
    if not isinstance(began, dict) or began.get("init_from") != config.course.init_from:
        return None
    facts = read_json(workdir / "corpus.json") if (workdir / "corpus.json").is_file() else {}
    init = facts.get("init") if isinstance(facts, dict) else None
    if isinstance(init, dict) and {"step", "params_digest"} <= init.keys():
        return init
    if steps_kept(workdir):
        raise ValueError(f"{workdir / 'corpus.json'} is damaged: restore it, or choose another --workdir")
    return None  # killed before it was written


def _from_run(config: LanguageModelConfig) -> Beginning:
    """The same from the other run itself."""
    name = config.course.init_from
    run = runs.load_run(name)
    if not isinstance(run.config, LanguageModelConfig):
        raise ValueError(
            f"expected --init_from to be a run of train_lm, or an average of such: {name} is none"
        )
    for what in ("level", "normalize"):
        there, here = getattr(run.vocab, what), getattr(config.data, what)
        if there != here:
            raise ValueError(
                f"{name} has another vocabulary ({what}: {there} there, {here} here): give --{what}={there}"
            )
    differing = model_differences(run.config.model, config.model)
    if differing:
        raise ValueError(f"{name} is another model ({differing[0]}): give the flags of its model")
    folder, _ = runs.split_run(name)
    facts = {"path": str(folder.resolve()), "step": run.step, "params_digest": digest(run.params)}
    if not config.course.init_optimizer:
        return Beginning(run.vocab, facts, jax.device_get(run.params))
    opt_state = _optimizer_state(config.train, name, folder, run)
    return Beginning(
        run.vocab,
        facts | {"optimizer_digest": digest(opt_state)},
        *jax.device_get((run.params, opt_state)),
    )


def _optimizer_state(train: TrainConfig, name: str, folder: Path, run: Run) -> optax.OptState:
    """The state of the other run's optimiser; ValueError where it has another or none."""
    if (folder / runs.AVERAGE).is_file():
        raise ValueError(f"{name} is an average, which no optimiser has made: leave --init_optimizer out")
    there = run.config.train
    for what, here in {"optimizer": train.optimizer, "momentum": train.momentum}.items():
        other = getattr(there, what)
        if other != here and (what == "optimizer" or not (other and here)):
            raise ValueError(
                f"{name} has another optimiser ({what}: {other} there, {here} here): give the same, or leave "
                "--init_optimizer out"
            )

    def fresh(key: jax.Array) -> Any:
        return init_state(key, run.model, there, run.config.data.batch_size)

    like = jax.eval_shape(fresh, jax.random.key(0))
    return load_state(folder, like, str(run.step))[0].state.opt_state

"""Tracking: a hidden state follows a product through lengths never seen; attention and decays do not.

    python -m experiments.claims.tracking --workdir=runs/tracking
    python -m experiments.claims.tracking --tasks=parity --layers=1 --workdir=runs/parity

Tokens are generators of a group, and the answer after each is the product of all so far: the parity of bits;
S3, from swaps of neighbours; A5, the 60 even permutations of five things (Merrill, Petty and Sabharwal 2024).
Nets are trained on answers to 32 tokens, in a curriculum that begins with the first, and tested on up to 256:
an accuracy at length L is that of the answers after tokens 3 L / 4 + 1 ... L, the last quarter.

Recurrent cells have one layer; of the one without gates nothing is promised. Attention sees the whole text.
Matrix states have decays between 0 and 1, or the delta rule with eigenvalues from 0 (strength up to 1) or
from -1 (up to 2, Grazzi et al. 2025), and no short convolution. These stand in residual blocks, one layer or
two. Intervals are over seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.claims.groups import Group, group_named, products
from experiments.frame.console import numbers, say
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.knobs import knob

CELLS = ("rnn", "gru", "lstm")
GATED = CELLS[1:]  # which are promised to keep the answer
# Their labels, and what is set beside sizes; which of them cannot turn a sign comes first.
MIXERS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention": ("attention", {"model": "attention"}),
    "mamba2": ("one decay a head (mamba2)", {"model": "mamba2"}),
    "gla": ("a decay a row (gla)", {"model": "gla"}),
    "delta_1": ("delta rule, strength to 1", {"model": "deltanet"}),
    "delta_2": ("delta rule, strength to 2", {"model": "deltanet", "max_strength": 2.0}),
}
TURNS = "delta_2"  # the one of them whose eigenvalues reach -1
TURNED = ("parity", "S3")  # tasks that need no more than that: each token is a reflection or nothing
KNOWN = 0.99  # accuracy of what has kept the answer
LOST = 0.1  # more than chance, of what has not, at most


@dataclass(frozen=True)
class TrackingConfig:
    """The tasks, the lengths, and the size of each training."""

    tasks: str = knob("parity,S3,A5", "groups, out of parity, S3, A5 and S5")
    layers: str = knob("1,2", "layers of attention and of matrix states")
    train_length: int = knob(32, "tokens of a sequence that is trained on")
    lengths: str = knob("32,64,128,256", "tokens of those that are tested on, ascending, at least 4")
    hidden_size: int = knob(32, "units of attention and of matrix states")
    num_heads: int = knob(2, "their heads")
    cell_size: int = knob(128, "units of a recurrent cell")
    num_seeds: int = knob(4, "trainings of each net on each task; at least 2")
    num_train_steps: int = knob(1500, "optimiser steps of each training")
    growing_steps: int = knob(1000, "of these, steps until all answers are trained on")
    batch_size: int = knob(32, "sequences of a batch")
    learning_rate: float = knob(4e-3, "peak learning rate")
    num_tests: int = knob(256, "sequences of the longest length that are tested on")
    seed: int = knob(0, "first seed")


def names(text: str) -> list[str]:
    """The tasks between commas."""
    return [part.strip() for part in text.split(",")]


def check(config: TrackingConfig) -> TrackingConfig:
    """ValueError for a setting out of range."""
    tasks = names(config.tasks)
    for task in tasks:
        group_named(task)
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"expected tasks, each once, got {config.tasks!r}")
    for name in ("layers", "lengths"):
        values = numbers(getattr(config, name), name)
        if sorted(set(values)) != values:
            raise ValueError(f"expected {name} in ascending order, each once, got {values}")
    lengths = numbers(config.lengths, "lengths")
    knobs.at_least(
        4, 1 << 16, train_length=config.train_length, shortest_length=lengths[0], longest_length=lengths[-1]
    )
    knobs.at_least(1, knobs.MOST_UNITS, hidden_size=config.hidden_size, cell_size=config.cell_size)
    knobs.at_least(1, knobs.MOST_UNITS, batch_size=config.batch_size, num_heads=config.num_heads)
    knobs.at_least(1, 1 << 16, num_tests=config.num_tests)
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(0, seed=config.seed)
    knobs.at_least(1, growing_steps=config.growing_steps)
    if config.growing_steps > config.num_train_steps:
        raise ValueError(
            f"expected growing_steps of at most num_train_steps, got {config.growing_steps} and "
            f"{config.num_train_steps}: give both"
        )
    if config.hidden_size % (2 * config.num_heads):
        raise ValueError(
            f"expected hidden_size to be a multiple of 2 * num_heads={2 * config.num_heads}, got "
            f"{config.hidden_size}: choose another"
        )
    if not 0 < config.learning_rate < float("inf"):
        raise ValueError(f"expected a positive learning_rate, got {config.learning_rate}")
    return config


def units_of(config: TrackingConfig) -> list[dict[str, Any]]:
    """What is trained, in order: task, model and layers."""
    found = []
    for task in names(config.tasks):
        found += [{"task": task, "model": cell, "layers": 1} for cell in CELLS]
        for layers in numbers(config.layers, "layers"):
            found += [{"task": task, "model": mixer, "layers": layers} for mixer in MIXERS]
    return found


def net(config: TrackingConfig, group: Group, unit: dict[str, Any], length: int) -> Any:
    """The model of a unit; its parameters are the same for every length, which attention sees whole."""
    from lmseq.config.language_model import ModelConfig
    from lmseq.models.build import build_model

    if unit["model"] in CELLS:
        settings = ModelConfig(model=unit["model"], hidden_size=config.cell_size)
    else:
        settings = ModelConfig(
            hidden_size=config.hidden_size,
            num_layers=unit["layers"],
            num_heads=config.num_heads,
            window=length,
            convolution=0,
            chunk=16,
            **MIXERS[unit["model"]][1],
        )
    return build_model(settings, len(group.elements))


def accuracies(config: TrackingConfig, unit: dict[str, Any]) -> dict[str, Any]:
    """The share of right answers in the last quarter of each length, a row a seed."""
    from experiments.claims.answers import right_answers, train_on_answers
    from lmseq.config.training import TrainConfig

    group, lengths = group_named(unit["task"]), numbers(config.lengths, "lengths")
    seeds = range(config.seed, config.seed + config.num_seeds)
    blocks, steps = [], config.num_train_steps
    for seed in seeds:
        shape = (steps * config.batch_size, config.train_length)
        tokens = np.random.default_rng((seed, 0)).integers(group.num_generators, size=shape, dtype=np.int32)
        blocks.append(np.concatenate([tokens, products(group, tokens)], axis=1))
    train = TrainConfig(
        learning_rate=config.learning_rate,
        num_train_steps=steps,
        steps_per_dispatch=steps,
    )
    model = net(config, group, unit, config.train_length)
    fitted = train_on_answers(
        model, blocks, config.train_length, train, config.batch_size, seeds, config.growing_steps
    )
    model, found = net(config, group, unit, lengths[-1]), []
    for seed, params in zip(seeds, fitted, strict=True):
        shape = (config.num_tests, lengths[-1])
        tokens = np.random.default_rng((seed, 1)).integers(group.num_generators, size=shape, dtype=np.int32)
        right = np.asarray(right_answers(model, params, tokens, products(group, tokens)))
        found.append([float(right[:, 3 * length // 4 : length].mean()) for length in lengths])
    return {"accuracy": found}


def judge(config: TrackingConfig, records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Intervals by task, net and length, and what the claim says of the longest."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    lengths = numbers(config.lengths, "lengths")
    summary, checks = {}, []
    say(f"{'accuracy at length':<44}" + "".join(f"{length:>28}" for length in lengths))
    for record in records:
        task, model = record["task"], record["model"]
        found = [interval(column) for column in np.transpose(record["accuracy"])]
        name = label(record)
        say(f"{f'{task}, {name}':<44}" + "".join(f"{each!s:>28}" for each in found))
        for length, each in zip(lengths, found, strict=True):
            summary |= flat(f"accuracy_{task}_{model}_layers_{record['layers']}_at_{length}", each)
        what = f"{task}: accuracy of {name} at length {lengths[-1]}"
        if model in GATED or (model == TURNS and task in TURNED):
            checks.append(Check(what, found[-1], low=KNOWN))
        elif model not in (*CELLS, TURNS):
            checks.append(Check(what, found[-1], high=1.0 / len(group_named(task).elements) + LOST))
    return summary, checks


def label(record: dict[str, Any]) -> str:
    """What a net is called."""
    if record["model"] in CELLS:
        return record["model"]
    layers = "1 layer" if record["layers"] == 1 else f"{record['layers']} layers"
    return f"{MIXERS[record['model']][0]}, {layers}"


def panels(config: TrackingConfig, records: Sequence[dict[str, Any]]) -> list[Any]:
    """A column of panels a task, a row a number of layers."""
    tasks = names(config.tasks)
    return [
        panel(config, task, layers, records) for layers in numbers(config.layers, "layers") for task in tasks
    ]


def panel(config: TrackingConfig, task: str, layers: int, records: Sequence[dict[str, Any]]) -> Any:
    """Accuracy by length, of cells and of all else with so many layers.

    Curves that coincide, as those of all that keep the answer, stand a little beside each other. Intervals
    are cut to what a share can be.
    """
    from experiments.frame.intervals import interval
    from lmseq.plotting import Curve, Panel

    lengths, curves = numbers(config.lengths, "lengths"), []
    for record in records:
        is_cell = record["model"] in CELLS
        if record["task"] != task or not (is_cell or record["layers"] == layers):
            continue
        mean, low, high = np.transpose([interval(column) for column in np.transpose(record["accuracy"])])
        name = record["model"] if is_cell else MIXERS[record["model"]][0]
        shift = 1.03 ** (len(curves) - (len(CELLS) + len(MIXERS) - 1) / 2)
        curves.append(Curve(name, shift * np.array(lengths), mean, np.maximum(low, 0), np.minimum(high, 1)))
    return Panel(
        f"{task}, {layers} layer{'s' * (layers > 1)}",
        f"length; trained on {config.train_length}",
        "share of right answers, last quarter",
        curves,
        {"chance": 1.0 / len(group_named(task).elements)},
        log="x",
        places=lengths,
    )


def measure(config: TrackingConfig, workdir: Path) -> dict[str, Any]:
    """All nets on all tasks, the picture, and the verdict."""
    from experiments.claims.verdicts import conclude
    from experiments.frame.measurements import measured
    from lmseq import plotting

    records = list(measured(workdir, units_of(config), lambda unit: accuracies(config, unit)))
    summary, checks = judge(config, records)
    plotting.save_figure(plotting.draw_panels(panels(config, records)), workdir / CLAIM.pictures[0])
    return {**summary, **conclude(checks)}


def facts(config: TrackingConfig) -> dict[str, Any]:
    """The groups, by their sizes."""
    groups = {task: group_named(task) for task in names(config.tasks)}
    return {
        "task": "products of generators",
        "elements": {task: len(group.elements) for task, group in groups.items()},
        "generators": {task: group.num_generators for task, group in groups.items()},
    }


CLAIM = make_claim(
    module="experiments.claims.tracking",
    doc=__doc__,
    sentence=(
        "A gated cell follows a product of permutations through lengths never seen in training; "
        "attention and decays between 0 and 1 do not, and the delta rule does where it can turn a sign."
    ),
    pictures=("tracking.png",),
    config=TrackingConfig,
    quick={
        "tasks": "parity,S3",
        "layers": "1",
        "cell_size": 64,
        "num_train_steps": 1000,
        "growing_steps": 600,
    },
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

"""Recall: how many pairs of keys and values each kind of carry holds.

    python -m experiments.claims.recall --workdir=runs/recall
    python -m experiments.claims.recall --key_sizes=2,4,8 --pairs=1,2,4,8 --workdir=runs/small

A sequence gives D keys with values, then asks for the values in random order (Arora et al. 2024): with V keys
and V values the answers are D log2 V bits, and all of them have to be in the carry when the questions begin.
Each net is trained on sequences of 1 to the largest D pairs, its loss is that of the answers alone, and is
tested on each D. A window is shorter than the gap before the questions: it can but guess, 1 / V. Attention
keeps every token. A matrix state adds keys times values up; with the delta rule it takes off first what a key
held, and d_k orthogonal keys do not disturb each other. It may answer more: V values in many columns are told
apart though their keys overlap. Intervals are over seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.claims.pairs import Vocabulary, draw_blocks, information
from experiments.frame.console import numbers, say
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.kinds import CellKind
from lmseq.config.knobs import knob

KNOWN = 0.99  # accuracy of what recalls
BETTER = 0.02  # of the answers: what counts as more
MARGIN = 0.05  # what guesses is right at most so much more often than 1 / V
LABELS = {"sums": "matrix state, sums", "delta": "matrix state, delta rule"}
MATRICES: dict[str, bool] = {"sums": False, "delta": True}  # whether by the delta rule


@dataclass(frozen=True)
class PairsConfig:
    """The pairs, the carries, and the size of each training."""

    num_keys: int = knob(16, "different keys, and as many values: V")
    pairs: str = knob("1,2,4,8,16", "pairs D of the sequences that are tested on, ascending")
    tau: int = knob(4, "tokens that the window sees, and blanks between the last pair and the questions")
    cell: CellKind = knob("gru", "recurrent cell")
    cell_sizes: str = knob("32,128", "units of the cell, ascending")
    key_sizes: str = knob("4,8,16", "rows d_k of the matrix states, ascending")
    hidden_size: int = knob(32, "units of attention, of matrix states, which have one head, and of windows")
    num_heads: int = knob(2, "heads of attention")
    num_seeds: int = knob(4, "trainings of each net; at least 2")
    num_train_steps: int = knob(1000, "optimiser steps of each training")
    batch_size: int = knob(64, "sequences of a batch")
    learning_rate: float = knob(5e-3, "peak learning rate")
    num_tests: int = knob(256, "sequences of each number of pairs that are tested on")
    seed: int = knob(0, "first seed")


def check(config: PairsConfig) -> PairsConfig:
    """ValueError for a setting out of range."""
    for name in ("pairs", "cell_sizes", "key_sizes"):
        values = numbers(getattr(config, name), name)
        if sorted(set(values)) != values:
            raise ValueError(f"expected {name} in ascending order, each once, got {values}")
        knobs.at_least(1, 4096, **{f"largest_of_{name}": values[-1]})
    knobs.at_least(2, 1024, num_keys=config.num_keys)
    most = numbers(config.pairs, "pairs")[-1]
    if most > config.num_keys:
        raise ValueError(
            f"expected pairs of at most num_keys={config.num_keys}, whose keys differ, got {most}"
        )
    knobs.at_least(1, knobs.MOST_UNITS, hidden_size=config.hidden_size, tau=config.tau)
    knobs.at_least(1, knobs.MOST_UNITS, num_heads=config.num_heads, batch_size=config.batch_size)
    if config.hidden_size % (2 * config.num_heads):
        raise ValueError(
            f"expected hidden_size to be a multiple of 2 * num_heads={2 * config.num_heads}, got "
            f"{config.hidden_size}: choose another"
        )
    knobs.at_least(1, 1 << 16, num_tests=config.num_tests)
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(0, seed=config.seed)
    if not 0 < config.learning_rate < float("inf"):
        raise ValueError(f"expected a positive learning_rate, got {config.learning_rate}")
    return config


def units_of(config: PairsConfig) -> list[dict[str, Any]]:
    """What is trained: a model and the size of its carry, of which attention and the window have one each."""
    found = [{"model": "window", "size": config.tau}]
    found += [{"model": config.cell, "size": size} for size in numbers(config.cell_sizes, "cell_sizes")]
    for name in MATRICES:
        found += [{"model": name, "size": size} for size in numbers(config.key_sizes, "key_sizes")]
    return [*found, {"model": "attention", "size": num_inputs(config)}]


def num_inputs(config: PairsConfig) -> int:
    """Tokens of a sequence: pairs or blanks, the gap, and as many questions."""
    return 2 * numbers(config.pairs, "pairs")[-1] + config.tau


def net(config: PairsConfig, unit: dict[str, Any]) -> Any:
    """The model of a unit: one layer."""
    from lmseq.config.language_model import ModelConfig
    from lmseq.models.build import build_model

    size, width = unit["size"], config.hidden_size
    match unit["model"]:
        case "window":
            settings = ModelConfig(model="mlp", tau=size, hidden_size=width, embedding_size=16)
        case "attention":
            settings = ModelConfig(
                model="attention", hidden_size=width, num_heads=config.num_heads, window=size
            )
        case name if name in MATRICES:
            settings = ModelConfig(
                model="matrix",
                hidden_size=width,
                num_heads=1,
                key_size=size,
                delta_rule=MATRICES[name],
            )
        case cell:
            settings = ModelConfig(model=cell, hidden_size=size)
    return build_model(settings, Vocabulary(config.num_keys).size)


def accuracies(config: PairsConfig, unit: dict[str, Any]) -> dict[str, Any]:
    """The share of right answers by number of pairs, a row a seed; and the bytes of one sequence's carry."""
    from experiments.claims.answers import carry_bytes, right_answers, train_on_answers
    from lmseq.config.training import TrainConfig

    words, counts = Vocabulary(config.num_keys), numbers(config.pairs, "pairs")
    most, gap, model = counts[-1], config.tau, net(config, unit)
    seeds = range(config.seed, config.seed + config.num_seeds)
    blocks, num_blocks = [], config.num_train_steps * config.batch_size
    for seed in seeds:
        rng = np.random.default_rng((seed, 0))
        blocks.append(draw_blocks(rng, rng.integers(1, most + 1, size=num_blocks), most, gap, words))
    train = TrainConfig(
        learning_rate=config.learning_rate,
        num_train_steps=config.num_train_steps,
        steps_per_dispatch=config.num_train_steps,
    )
    found = []
    fitted = train_on_answers(model, blocks, most, train, config.batch_size, seeds)
    for seed, params in zip(seeds, fitted, strict=True):
        rng, row = np.random.default_rng((seed, 1)), []
        for count in counts:
            tests = draw_blocks(rng, np.full(config.num_tests, count), most, gap, words)
            right = right_answers(model, params, tests[:, :-most], tests[:, -most:])
            row.append(float(np.asarray(right).mean()))
        found.append(row)
    return {"accuracy": found, "carry_bytes": carry_bytes(model, fitted[0])}


def judge(config: PairsConfig, records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Intervals by net and number of pairs, and what the claim says of them."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    counts = numbers(config.pairs, "pairs")
    summary: dict[str, Any] = {
        f"bits_of_{count}_pairs": information(count, config.num_keys) for count in counts
    }
    checks: list[Any] = []
    say(f"{'accuracy, pairs':<44}" + "".join(f"{count:>28}" for count in counts))
    by_size: dict[tuple[str, int], np.ndarray] = {}
    for record in records:
        model, size, name = record["model"], record["size"], label(record)
        columns = np.transpose(record["accuracy"])
        by_size[model, size] = columns[-1]
        found = [interval(column) for column in columns]
        say(f"{name:<44}" + "".join(f"{each!s:>28}" for each in found))
        summary[f"{model}_{size}_carry_bytes"] = record["carry_bytes"]
        for count, each in zip(counts, found, strict=True):
            summary |= flat(f"accuracy_{model}_{size}_pairs_{count}", each)
            what = f"accuracy of {name}, {count} pair{'s' * (count > 1)}"
            if model == "window":
                checks.append(Check(what, each, high=1 / config.num_keys + MARGIN))
            elif model == "attention" or (model == "delta" and count <= size):
                checks.append(Check(what, each, low=KNOWN))
    for size in (size for model, size in by_size if model == "delta" and size < counts[-1]):
        more = interval(by_size["delta", size] - by_size["sums", size])
        what = f"d_k = {size}, {counts[-1]} pairs: accuracy of the delta rule minus that of sums"
        checks.append(Check(what, more, low=BETTER))
    return summary, checks


def label(record: dict[str, Any]) -> str:
    """What a net and its carry are called."""
    size = record["size"]
    match record["model"]:
        case "window":
            return f"window, tau = {size}"
        case "attention":
            return f"attention, W = {size}"
        case name if name in MATRICES:
            return f"{LABELS[name]}, d_k = {size}"
        case cell:
            return f"{cell}, {size} units"


def drawn(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Means, and both bounds of their intervals, cut to what a share can be: (3, number of samples)."""
    from experiments.frame.intervals import interval

    return np.clip(np.transpose([interval(each) for each in samples]), 0.0, 1.0)


def panels(config: PairsConfig, records: Sequence[dict[str, Any]]) -> list[Any]:
    """Accuracy by number of pairs, and of the largest number by bytes of the carry.

    The first has the smallest and the largest of each kind.
    """
    from lmseq.plotting import Curve, Panel

    counts, chance = numbers(config.pairs, "pairs"), 1 / config.num_keys
    kinds: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        kinds.setdefault(record["model"], []).append(record)
    by_pairs, by_bytes = [], []
    for model, members in kinds.items():
        for record in {members[0]["size"]: members[0], members[-1]["size"]: members[-1]}.values():
            shift = 1.03 ** (len(by_pairs) - len(kinds))  # curves that coincide stand beside each other
            shares = drawn(np.transpose(record["accuracy"]))
            by_pairs.append(Curve(label(record), shift * np.array(counts), *shares))
        sizes = [record["carry_bytes"] for record in members]
        shares = drawn([np.transpose(record["accuracy"])[-1] for record in members])
        by_bytes.append(Curve(LABELS.get(model, model), sizes, *shares))
    bound = information(counts[-1], config.num_keys) / 8
    name = f"D log2 V = {8 * bound:.4g} bits"
    return [
        Panel(
            "recall by number of pairs",
            "D, pairs of the sequence",
            "share of right answers",
            by_pairs,
            {"guessing": chance},
            log="x",
            places=counts,
        ),
        Panel(
            f"recall of {counts[-1]} pairs by size of the carry",
            "bytes of the carry of one sequence",
            "share of right answers",
            [*by_bytes, Curve(name, [bound, bound], [0.0, 1.0], style="k-")],
            {"guessing": chance},
            log="x",
        ),
    ]


def measure(config: PairsConfig, workdir: Path) -> dict[str, Any]:
    """All nets, the picture, and the verdict."""
    from experiments.claims.verdicts import conclude
    from experiments.frame.measurements import measured
    from lmseq import plotting

    records = list(measured(workdir, units_of(config), lambda unit: accuracies(config, unit)))
    summary, checks = judge(config, records)
    plotting.save_figure(plotting.draw_panels(panels(config, records)), workdir / CLAIM.pictures[0])
    return {**summary, **conclude(checks)}


def facts(config: PairsConfig) -> dict[str, Any]:
    """The task, by its sizes."""
    return {
        "task": "multi-query associative recall",
        "keys": config.num_keys,
        "values": config.num_keys,
        "inputs": num_inputs(config),
    }


CLAIM = make_claim(
    module="experiments.claims.recall",
    doc=__doc__,
    sentence=(
        "What is recalled is what the carry holds: a window nothing from before it, attention every pair, a "
        "matrix state with the delta rule as many pairs as it has rows, and sums fewer."
    ),
    pictures=("recall.png",),
    config=PairsConfig,
    quick={"key_sizes": "8", "cell_sizes": "32"},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

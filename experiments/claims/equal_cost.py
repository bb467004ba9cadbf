"""Which kind of model predicts a text best where training seconds, parameters or bytes of carry are equal.

    python -m experiments.claims.equal_cost --workdir=runs/equal_cost
    python -m experiments.claims.equal_cost --corpora=python_docs --seconds=4 --workdir=runs/equal_small

Counts, a perceptron of a window, recurrent cells, attention, a matrix state and a stack of two kinds are
compared three times. Equal parameters: nets of as many, and as many steps. Equal seconds: the same nets, each
trained for as many steps as the CPU seconds buy, at a price that is measured first, the kinds taking turns.
Equal carry: nets that carry as many bytes from one character to the next, and as many steps. Counts are the
best of those that cost no more, chosen on validation text; all losses are those of the test text.

Two kinds change places between two costs where one is better at equal this and the other at equal that. The
two that do so most are chosen by the first seed, and judged by the others: what was chosen by a seed would
look too good on it.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.console import say
from experiments.frame.experiment import main
from experiments.text.loading import corpora_here
from lmseq.config import knobs
from lmseq.config.knobs import knob

COSTS = {"seconds": "CPU seconds", "parameters": "parameters", "carry": "bytes of carry"}
KINDS = ("counts", "mlp", "gru", "lstm", "mingru", "attention", "gated_deltanet", "gla,attention")
TEXTS = ("python_docs", "tiny_shakespeare")
BATCH_SIZE, NUM_STEPS = 32, 32
AT_ONCE = 20  # steps of a dispatch
ROUNDS = 5  # dispatches of each kind by which a step is priced, after one that compiles


@dataclass(frozen=True)
class EqualCostConfig:
    """The texts, and how much of each cost there is."""

    corpora: str = knob(
        "here",
        f"texts, as in train_lm, separated by commas; here: {' and '.join(TEXTS)}, if no download is needed",
        is_path=True,
    )
    seconds: float = knob(10.0, "CPU seconds of a training, where they are equal")
    num_parameters: int = knob(60_000, "parameters of a net, where they or CPU seconds are equal")
    carry_bytes: int = knob(1024, "bytes of the carry of one row, where they are equal")
    num_train_steps: int = knob(800, "optimiser steps of a training, where CPU seconds are not equal")
    learning_rate: float = knob(5e-3, "peak learning rate")
    num_seeds: int = knob(4, "trainings of each net; at least 3: one to choose by, and two to judge by")
    seed: int = knob(0, "first seed")


def names_of(config: EqualCostConfig) -> list[str]:
    """The texts, each once."""
    if config.corpora == "here":
        return [name for name in TEXTS if name == TEXTS[0] or name in corpora_here()]
    names = [name.strip() for name in config.corpora.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected --corpora=NAME,NAME,... with each once, got {config.corpora!r}")
    return names


def check(config: EqualCostConfig) -> EqualCostConfig:
    """ValueError for a setting out of range."""
    names_of(config)
    knobs.at_least(3, num_seeds=config.num_seeds)
    knobs.at_least(2, num_train_steps=config.num_train_steps)
    knobs.at_least(1000, 10**9, num_parameters=config.num_parameters)
    knobs.at_least(256, 1 << 20, carry_bytes=config.carry_bytes)
    knobs.at_least(0, seed=config.seed)
    for name in ("seconds", "learning_rate"):
        if not 0 < getattr(config, name) < float("inf"):
            raise ValueError(f"expected a positive {name}, got {getattr(config, name)}")
    return config


# Measuring


def settings_of(config: EqualCostConfig, num_steps: int, seed: int) -> Any:
    """One training."""
    from lmseq.config.training import TrainConfig

    return TrainConfig(
        learning_rate=config.learning_rate,
        num_train_steps=num_steps,
        warmup_steps=min(50, num_steps // 10),
        steps_per_dispatch=AT_ONCE,
        seed=seed,
    )


def training(model: Any, stream: np.ndarray, train: Any) -> Iterator[Any]:
    """The states after each dispatch of a training, on one device, whatever their number."""
    from lmseq.training.ensemble import Members, ensemble_run
    from lmseq.training.job import Batches

    batches = Batches(BATCH_SIZE, NUM_STEPS)

    def plan_of(seed: int, epoch: int) -> Any:
        found = batches.plan_of(len(stream), seed, epoch)
        return found.rows(0, found.num_batches)

    members = Members((train.seed,), {})
    return ensemble_run(model, train, members, stream, plan_of, BATCH_SIZE, NUM_STEPS)


def step_seconds(trainings: Mapping[str, Iterator[Any]], num_rounds: int) -> dict[str, float]:
    """CPU seconds of a step of each training: the median of dispatches in turn, after one that compiles."""
    for each in trainings.values():
        next(each)
    spent: dict[str, list[float]] = {kind: [] for kind in trainings}
    for _ in range(num_rounds):
        for kind, each in trainings.items():
            begun = time.process_time()
            next(each)
            spent[kind].append((time.process_time() - begun) / AT_ONCE)
    return {kind: float(np.median(found)) for kind, found in spent.items()}


def steps_for(seconds: float, price: float) -> int:
    """Steps that the seconds buy, in whole dispatches; one dispatch at least."""
    return AT_ONCE * max(round(seconds / price / AT_ONCE), 1)


def trained(config: EqualCostConfig, settings: Any, texts: Any, num_steps: int) -> dict[str, Any]:
    """Test losses of a net, one a seed, and its costs; CPU seconds, without compiling, are a mean."""
    from experiments.claims.equal_sizes import amounts
    from lmseq import scoring
    from lmseq.models.build import build_model
    from lmseq.training.ensemble import member

    model, losses, spent = build_model(settings, len(texts.vocab)), [], []
    for seed in range(config.seed, config.seed + config.num_seeds):
        run = training(model, np.asarray(texts.ids["train"]), settings_of(config, num_steps, seed))
        done = next(run)
        first, begun = done.step, time.process_time()
        done = deque(run, maxlen=1).pop() if num_steps > first else done
        rest = time.process_time() - begun
        spent.append(rest * num_steps / (num_steps - first) if num_steps > first else np.nan)
        params = member(done.loop_state, 0).state.params
        losses.append(float(scoring.mean_loss(model, params, texts.ids["test"])))
    costs = amounts(settings, len(texts.vocab))
    return {"losses": losses, "steps": num_steps, "cpu_seconds": float(np.mean(spent)), **costs}


def units_of(config: EqualCostConfig) -> list[dict[str, Any]]:
    """What is measured of each text: prices, then each kind at each cost."""
    found: list[dict[str, Any]] = []
    for corpus in names_of(config):
        found.append({"corpus": corpus, "cost": "prices", "kind": "all nets"})
        found += [{"corpus": corpus, "cost": cost, "kind": kind} for cost in COSTS for kind in KINDS]
    return found


def measure_unit(
    config: EqualCostConfig, unit: Mapping[str, Any], texts: Any, prices: Mapping[str, float]
) -> dict[str, Any]:
    """Prices of a step, or losses and costs of one kind; `prices` are those of the text, measured before."""
    from experiments.claims.equal_sizes import NETS, best_counts, net_of
    from lmseq.models.build import build_model
    from lmseq.ngram.corpus import from_texts

    size, cost, kind = len(texts.vocab), unit["cost"], unit["kind"]
    if cost == "prices":
        train = settings_of(config, AT_ONCE * (1 + ROUNDS), config.seed)
        stream = np.asarray(texts.ids["train"])
        nets = {each: net_of(each, "parameters", config.num_parameters, size) for each in NETS}
        runs = {each: training(build_model(net, size), stream, train) for each, net in nets.items()}
        return {"prices": step_seconds(runs, ROUNDS)}
    budgets = {"seconds": config.seconds, "parameters": config.num_parameters, "carry": config.carry_bytes}
    if kind == "counts":
        counted = from_texts(texts)
        found = best_counts(cost, budgets[cost], counted.streams, counted.num_words)
        return {**found, "losses": [found["test"]] * config.num_seeds, "steps": 0}
    by = "carry" if cost == "carry" else "parameters"
    steps = steps_for(config.seconds, prices[kind]) if cost == "seconds" else config.num_train_steps
    return trained(config, net_of(kind, by, budgets[by], size), texts, steps)


def measure(config: EqualCostConfig, workdir: Path) -> dict[str, Any]:
    """All kinds at all costs, the table, the picture, and the verdict."""
    from experiments.claims.verdicts import conclude
    from experiments.frame.measurements import measured
    from experiments.text.loading import load_texts
    from lmseq import plotting
    from lmseq.config.text import TextConfig

    texts, prices, records = {}, {}, []

    def figures(unit: dict[str, Any]) -> dict[str, Any]:
        corpus = unit["corpus"]
        if corpus not in texts:
            texts[corpus] = load_texts(TextConfig(corpus=corpus))
        return measure_unit(config, unit, texts[corpus], prices.get(corpus, {}))

    for record in measured(workdir, units_of(config), figures):
        if record["cost"] == "prices":
            prices[record["corpus"]] = record["prices"]
        else:
            records.append(record)
    summary, checks = judge(records)
    plotting.save_figure(plotting.draw_panels(panels(records)), workdir / CLAIM.pictures[0])
    return {**summary, **conclude(checks)}


# Judging


def most_reversed(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[str, str]:
    """The kinds (a, b) of which a is better by `one` and b by `other`, both by as much as can be found."""
    return max(permutations(one, 2), key=lambda ab: min(one[ab[1]] - one[ab[0]], other[ab[0]] - other[ab[1]]))


def judge(records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Losses and costs by text, cost and kind, and whether two kinds change places between any two costs."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    summary: dict[str, Any] = {}
    losses: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for record in records:
        corpus, cost, kind = (record[name] for name in ("corpus", "cost", "kind"))
        found = np.array(record["losses"])
        losses.setdefault(corpus, {}).setdefault(cost, {})[kind] = found
        name = f"{corpus}_{cost}_{kind}"
        summary |= flat(f"{name}_loss", interval(found))
        summary |= {f"{name}_{each}": record[each] for each in ("parameters", "carry", "steps")}
        summary[f"{name}_cpu_seconds"] = record["cpu_seconds"] if record["cpu_seconds"] > 0 else None
    tell(records)
    checks = []
    for corpus, by_cost in losses.items():
        for one, other in combinations(COSTS, 2):
            by_first = [{kind: row[0] for kind, row in by_cost[cost].items()} for cost in (one, other)]
            a, b = most_reversed(*by_first)
            for cost, bound in ((one, {"high": 0.0}), (other, {"low": 0.0})):
                gap = interval((by_cost[cost][a] - by_cost[cost][b])[1:])
                what = f"{corpus}, equal {COSTS[cost]}: loss of {a} minus that of {b}"
                checks.append(Check(what, gap, **bound))
    return summary, checks


def tell(records: Sequence[dict[str, Any]]) -> None:
    """The table: a row for each kind at each cost, the best first."""
    from experiments.frame.intervals import interval

    for corpus in dict.fromkeys(record["corpus"] for record in records):
        for cost, name in COSTS.items():
            heads = ("nats a character", "parameters", "carry, bytes", "steps", "CPU s")
            say(f"{f'{corpus}, equal {name}':<40}" + "".join(f"{head:>26}" for head in heads))
            rows = [each for each in records if (each["corpus"], each["cost"]) == (corpus, cost)]
            for row in sorted(rows, key=lambda row: float(np.mean(row["losses"]))):
                costs = f"{row['parameters']:>26,}{row['carry']:>26,}{row['steps']:>26,}"
                found = str(interval(row["losses"]))
                say(f"{label(row):<40}{found:>26}{costs}{row['cpu_seconds']:>26.1f}")


def label(record: Mapping[str, Any]) -> str:
    """A kind, and the order of counts."""
    pruned = f", more than {record['pruned']} times" if record.get("pruned") else ""
    return f"counts, order {record['order']}{pruned}" if record["kind"] == "counts" else record["kind"]


def panels(records: Sequence[dict[str, Any]]) -> list[Any]:
    """Losses of each kind at the three costs, joined by a line: where lines cross, kinds change places."""
    from experiments.frame.intervals import interval
    from lmseq.plotting import Curve, Panel

    found = []
    for corpus in dict.fromkeys(record["corpus"] for record in records):
        curves = []
        for number, kind in enumerate(KINDS):
            rows = {
                each["cost"]: each for each in records if (each["corpus"], each["kind"]) == (corpus, kind)
            }
            shown = np.transpose([interval(rows[cost]["losses"]) for cost in COSTS])
            shift = 0.02 * (number - (len(KINDS) - 1) / 2)  # intervals that coincide stand beside each other
            curves.append(Curve(kind, np.arange(len(COSTS)) + shift, *shown))
        ticks = [f"equal {name}" for name in COSTS.values()]
        title, unit = f"{corpus}: the kinds at three equal costs", "test cross-entropy, nats a character"
        found.append(Panel(title, "what is held equal", unit, curves, ticks=ticks))
    return found


def facts(config: EqualCostConfig) -> dict[str, Any]:
    """The texts."""
    from experiments.text.loading import corpus_facts

    return {"corpora": [corpus_facts(name) for name in names_of(config)]}


CLAIM = make_claim(
    module="experiments.claims.equal_cost",
    doc=__doc__,
    sentence=(
        "The order of kinds of models depends on which cost is held equal: between any two of training "
        "seconds, parameters and bytes of carry, two kinds change places."
    ),
    pictures=("equal_cost.png",),
    config=EqualCostConfig,
    quick={"corpora": "python_docs", "seconds": 2.0, "num_train_steps": 120, "num_seeds": 3},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

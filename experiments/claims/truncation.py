"""A window of tau tokens costs exactly what the tokens before it would have told.

    python -m experiments.claims.truncation --order=3 --vocab_size=5 --workdir=runs/truncation

The text comes from a Markov chain of order m whose entropies are known: H_tau, the least cross-entropy of any
model that sees the last tau tokens, falls with tau to the entropy rate H_m. Counts and perceptrons of every
tau, and a recurrent net, are trained on samples of it and scored on others.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.kinds import CellKind
from lmseq.config.knobs import knob
from lmseq.config.language_model import ModelConfig
from lmseq.data import sources

NEAR = 0.01  # of H_tau: as near as a model must come to it


@dataclass(frozen=True)
class TruncationConfig:
    """The chain, and the size of each training."""

    order: int = knob(3, "tokens that the chain's next one depends on")
    vocab_size: int = knob(5, "symbols of the chain")
    concentration: float = knob(4.0, "how little a longer context tells: the Dirichlet parameters' sum")
    num_tokens: int = knob(600_000, "tokens of each sample; a third of them are for the test")
    num_seeds: int = knob(4, "samples and trainings; at least 2")
    num_train_steps: int = knob(2000, "optimiser steps of each training")
    hidden_size: int = knob(128, "units of the perceptrons and of the recurrent net")
    cell: CellKind = knob("gru", "recurrent cell")
    seed: int = knob(0, "fixes the chain; the samples have this seed and those that follow")


def check(config: TruncationConfig) -> TruncationConfig:
    """ValueError for a setting out of range."""
    knobs.at_least(1, 12, order=config.order)
    knobs.at_least(2, 256, vocab_size=config.vocab_size)
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(50_000, 10**7, num_tokens=config.num_tokens)
    knobs.at_least(1, knobs.MOST_UNITS, hidden_size=config.hidden_size)
    knobs.at_least(0, seed=config.seed)
    if config.vocab_size ** (config.order + 1) > 2**18:
        raise ValueError("expected a chain of at most 2^18 probabilities: a smaller order or vocab_size")
    make_chain(config)
    return config


def make_chain(config: TruncationConfig) -> sources.MarkovChain:
    """The chain that the seed fixes."""
    rng = np.random.default_rng((config.seed, 7))
    return sources.random_chain(rng, config.vocab_size, config.order, config.concentration)


def measure(config: TruncationConfig, workdir: Path) -> dict[str, Any]:
    """Losses by model and tau, beside the least that is possible on the same tokens."""
    from experiments.claims import known_sources
    from experiments.frame.measurements import measured

    chain = make_chain(config)
    seeds = range(config.seed, config.seed + config.num_seeds)
    streams = known_sources.samples(chain, seeds, config.num_tokens)
    best = [sources.MarkovChain(table) for table in sources.shorter_tables(chain)]
    taus = range(config.order + 2)
    units = [{"model": "count", "tau": tau} for tau in taus]
    units += [{"model": "mlp", "tau": tau} for tau in taus[1:]] + [{"model": "rnn", "tau": config.order}]

    def losses_of(unit: dict[str, Any]) -> dict[str, Any]:
        tau = unit["tau"]
        least = known_sources.source_losses(best[min(tau, config.order)], streams)
        if unit["model"] == "count":
            return {"losses": known_sources.count_losses(config.vocab_size, streams, tau + 1), "least": least}
        kind = ModelConfig(model=config.cell)
        if unit["model"] == "mlp":
            kind = ModelConfig(model="mlp", tau=tau, embedding_size=16)
        kind = dataclasses.replace(kind, hidden_size=config.hidden_size)
        losses = known_sources.neural_losses(kind, config.vocab_size, seeds, streams, config.num_train_steps)
        return {"losses": losses, "least": least}

    records = list(measured(workdir, units, losses_of))
    return judge(config, workdir, records, sources.chain_entropies(chain, config.order + 1))


def judge(
    config: TruncationConfig, workdir: Path, records: list[dict[str, Any]], entropies: np.ndarray
) -> dict[str, Any]:
    """Intervals of the losses and of their relative excess over H_tau, the picture, and the verdict.

    A loss differs from H_tau also by the chance of the test tokens. That is the same for the best possible
    predictor on those tokens, so the excess is the difference from it.
    """
    from experiments.claims.verdicts import Check, conclude
    from experiments.frame.intervals import exact, flat, interval

    summary: dict[str, Any] = {f"exact_h_{tau}": float(h) for tau, h in enumerate(entropies)}
    summary["exact_rate"] = float(entropies[-1])
    checks, curves = [], {}
    for record in records:
        name, tau, found = record["model"], record["tau"], np.array(record["losses"])
        excess = interval((found - np.array(record["least"])) / entropies[tau])
        summary |= flat("rnn_loss" if name == "rnn" else f"{name}_loss_{tau}", interval(found))
        label = config.cell if name == "rnn" else f"{name}_{tau}"
        summary |= flat(f"{label}_excess", excess)
        curves.setdefault(name, []).append((tau, entropies[tau] * (1.0 + np.array(excess))))
        if tau <= config.order:
            checks.append(Check(f"relative excess over H_{tau} of {label}", excess, high=NEAR))
    least = min(check.found.high for check in checks)
    checks.append(Check("the least upper end of these intervals: none is below H_tau", exact(least), low=0.0))
    draw(config, workdir, curves, entropies)
    return {**summary, **conclude(checks)}


def draw(config: TruncationConfig, workdir: Path, curves: dict[str, Any], entropies: np.ndarray) -> None:
    """truncation.png: losses against tau, with H_tau and the rate."""
    from lmseq import plotting
    from lmseq.plotting import Curve, Panel

    taus = np.arange(len(entropies))
    drawn = [Curve("H_tau, exact", taus, entropies, style="k-")]
    looks = {
        "count": ("counts", "o", -0.08),
        "mlp": ("perceptron", "s", 0.08),
        "rnn": (config.cell, "D", 0.0),
    }
    for name, (label, style, shift) in looks.items():
        places, found = zip(*curves[name], strict=True)
        mean, low, high = np.array(found).T
        drawn.append(Curve(label, np.array(places) + shift, mean, low, high, style))
    panel = Panel(
        f"what a window forgets: a chain of order {config.order}, {config.vocab_size} symbols",
        "tau, tokens that the model sees (recurrent net: all)",
        "test cross-entropy, nats a token",
        drawn,
        {"entropy rate, exact": float(entropies[-1])},
        ticks=[str(tau) for tau in taus],
    )
    plotting.save_figure(plotting.draw_panels([panel]), workdir / CLAIM.pictures[0])


def facts(config: TruncationConfig) -> dict[str, Any]:
    """The chain is fixed by the config."""
    return {"source": "random Markov chain", "order": config.order}


CLAIM = make_claim(
    module="experiments.claims.truncation",
    doc=__doc__,
    sentence=(
        "Cross-entropy falls with tau to H_tau and never below it; a hidden state reaches the entropy rate."
    ),
    pictures=("truncation.png",),
    config=TruncationConfig,
    quick={"num_train_steps": 1500, "num_tokens": 450_000},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

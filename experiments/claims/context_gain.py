"""How far back each kind of carry gains, by cutting it: loss on a text against the tokens that are seen.

    python -m experiments.claims.context_gain --corpus=python_docs --workdir=runs/context_gain

Counts, a perceptron of a window, a recurrent cell, a matrix state and attention are trained on a text. Then
each predicts the same characters from the last n alone, read from the initial carry. What has a reach cannot
gain beyond it: an n-gram sees n - 1 tokens, a perceptron tau, and L layers of attention to W tokens see
L (W - 1) + 1. That follows from how they are built, and is checked to a rounding. The others have no reach,
and gain as far as they have learned to: which is what is measured.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.knobs import knob
from lmseq.config.language_model import ModelConfig

ORDER, TAU, WINDOW, NUM_LAYERS = 6, 8, 16, 2
KINDS = ("counts", "mlp", "gru", "gated_deltanet", "attention")
EQUAL = 1e-4  # nats: losses that rounding alone tells apart
BLOCK = 250  # contexts that are read together


@dataclass(frozen=True)
class ContextGainConfig:
    """The text, the models, and what is asked of them."""

    corpus: str = knob("python_docs", "name of a corpus, or a text file", is_path=True)
    num_train_steps: int = knob(1000, "optimiser steps of each training")
    hidden_size: int = knob(64, "units of each net")
    most_tokens: int = knob(256, "the longest context, of powers of two")
    num_targets: int = knob(2000, "characters of the held-out text that are predicted")
    num_seeds: int = knob(3, "trainings of each net; at least 2")
    seed: int = knob(0, "the first seed of the trainings")


def check(config: ContextGainConfig) -> ContextGainConfig:
    """ValueError for a setting out of range."""
    if config.most_tokens not in (64, 128, 256, 512, 1024):  # two contexts at least are beyond every reach
        raise ValueError(f"expected most_tokens of 64, 128, 256, 512 or 1024, got {config.most_tokens}")
    knobs.at_least(2, num_train_steps=config.num_train_steps, num_seeds=config.num_seeds)
    knobs.at_least(100, 10**6, num_targets=config.num_targets)
    knobs.at_least(4, knobs.MOST_UNITS, hidden_size=config.hidden_size)
    knobs.at_least(0, seed=config.seed)
    if config.hidden_size % 8:
        raise ValueError(f"expected hidden_size to be divisible by 8, got {config.hidden_size}")
    return config


def reach_of(kind: str) -> int | None:
    """How many of the last tokens a kind can know anything of; None where there is no such number."""
    reaches = {"counts": ORDER - 1, "mlp": TAU, "attention": NUM_LAYERS * (WINDOW - 1) + 1}
    return reaches.get(kind)


def lengths(config: ContextGainConfig) -> list[int]:
    """Contexts of 1, 2, 4, ... tokens."""
    return [1 << i for i in range(config.most_tokens.bit_length())]


def model_config(kind: str, hidden_size: int) -> ModelConfig:
    """The net of a kind."""
    sizes = {
        "mlp": {"tau": TAU, "embedding_size": 16},
        "gru": {"num_layers": 1},
        "attention": {"window": WINDOW},
    }
    return ModelConfig(
        **{"model": kind, "hidden_size": hidden_size, "num_layers": NUM_LAYERS, **sizes.get(kind, {})}
    )


def cut_losses(model: Any, params: Any, stream: np.ndarray, targets: np.ndarray, seen: int) -> float:
    """Mean nats of the tokens at `targets` (P,), each read out after the last `seen` before it alone."""
    import jax

    from lmseq.contract import log_prob

    @jax.jit
    def losses(contexts: Any, tokens: Any) -> Any:
        carry = model.init_carry(params, len(contexts))
        carry, _ = model.token_log_probs(params, carry, contexts, contexts)
        return -log_prob(model.readout(params, carry), tokens)

    contexts = stream[targets[:, None] + np.arange(-seen, 0)[None]]
    blocks = [slice(i, i + BLOCK) for i in range(0, len(targets), BLOCK)]
    found = [np.asarray(losses(contexts[block], stream[targets[block]])) for block in blocks]
    return float(np.concatenate(found).mean(dtype=np.float64))


def counted(train: np.ndarray, vocab_size: int) -> tuple[Any, Any]:
    """An n-gram model of the training text, all of it one sentence, under the contract."""
    from lmseq.models.ngram import put_tables
    from lmseq.ngram.counts import FIRST_WORD_ID, count_ngrams, mark_sentences
    from lmseq.ngram.smoothing import modified_kneser_ney

    counts = count_ngrams(mark_sentences([FIRST_WORD_ID + train]), FIRST_WORD_ID + vocab_size, ORDER)
    tables = modified_kneser_ney(counts, discount_fallback=True).tables
    return put_tables(tables, FIRST_WORD_ID + np.arange(vocab_size), has_unknown=False)


def measure(config: ContextGainConfig, workdir: Path) -> dict[str, Any]:
    """Losses by kind, seed and tokens seen."""
    from experiments.frame.measurements import measured
    from experiments.frame.progress import steps_bar
    from experiments.text.loading import load_texts
    from lmseq.config.text import TextConfig
    from lmseq.config.training import TrainConfig
    from lmseq.models.build import build_model
    from lmseq.training.fit import fit

    texts = load_texts(TextConfig(corpus=config.corpus))
    train, held = np.asarray(texts.ids["train"]), np.asarray(texts.ids["valid"])
    if len(held) < config.most_tokens + config.num_targets:
        raise ValueError(
            f"expected at least {config.most_tokens + config.num_targets} tokens of held-out text, got "
            f"{len(held)}: give a longer corpus, or fewer num_targets"
        )
    targets = np.linspace(config.most_tokens, len(held) - 1, config.num_targets).astype(int)
    seeds = range(config.seed, config.seed + config.num_seeds)
    units = [{"kind": kind, "seed": seed} for kind in KINDS for seed in seeds if kind != "counts"]
    units = [{"kind": "counts", "seed": config.seed}, *units]

    def losses_of(unit: dict[str, Any]) -> dict[str, Any]:
        if unit["kind"] == "counts":
            model, params = counted(train, len(texts.vocab))
        else:
            model = build_model(model_config(unit["kind"], config.hidden_size), len(texts.vocab))
            steps = config.num_train_steps
            settings = TrainConfig(learning_rate=3e-3, num_train_steps=steps, seed=unit["seed"])
            with steps_bar(steps) as show:
                params, _ = fit(model, train, settings, on_dispatch=lambda record: show(record["step"]))
        return {"losses": [cut_losses(model, params, held, targets, n) for n in lengths(config)]}

    return judge(config, workdir, list(measured(workdir, units, losses_of)))


def judge(config: ContextGainConfig, workdir: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Gains up to the reach of a kind and beyond it, the picture, and the verdict."""
    from experiments.claims.verdicts import Check, conclude
    from experiments.frame.intervals import exact, flat, interval

    seen, summary, checks = np.array(lengths(config)), {}, []
    losses = {kind: np.array([r["losses"] for r in records if r["kind"] == kind]) for kind in KINDS}
    for kind, found in losses.items():
        for n, column in zip(seen, found.T, strict=True):
            low = interval(column) if len(column) > 1 else exact(float(column[0]))
            summary |= flat(f"{kind}_loss_{n}", low)
        reach = reach_of(kind)
        if reach is not None:
            beyond = found[:, seen >= reach]
            moved = float(np.abs(beyond - beyond[:, -1:]).max())
            checks.append(Check(f"what {kind} gains beyond {reach} tokens", exact(moved), high=EQUAL))
        if kind not in ("counts", "mlp"):
            gain = interval(found[:, seen == TAU][:, 0] - found[:, -1])
            summary |= flat(f"{kind}_gain", gain)
            checks.append(
                Check(f"what {kind} gains beyond {TAU} tokens, where the window ends", gain, low=0.0)
            )
    draw(config, workdir, seen, losses)
    return {**summary, **conclude(checks)}


def draw(config: ContextGainConfig, workdir: Path, seen: np.ndarray, losses: dict[str, np.ndarray]) -> None:
    """context_gain.png: loss against tokens seen, a curve a kind."""
    from lmseq import plotting
    from lmseq.plotting import Curve, Panel

    labels = {
        "counts": f"counts, {ORDER}-gram",
        "mlp": f"perceptron, {TAU} tokens",
        "gru": "gru",
        "gated_deltanet": f"gated delta rule, {NUM_LAYERS} layers",
        "attention": f"attention, {NUM_LAYERS} layers of {WINDOW} tokens",
    }
    drawn = [
        Curve(labels[kind], np.arange(len(seen)), found.mean(0), found.min(0), found.max(0), style)
        for (kind, found), style in zip(losses.items(), ("o-", "s-", "D-", "^-", "v-"), strict=True)
    ]
    panel = Panel(
        f"what is gained from the past: {config.corpus}",
        "tokens that the model may look back",
        "held-out cross-entropy, nats a character",
        drawn,
        ticks=[str(n) for n in seen],
    )
    plotting.save_figure(plotting.draw_panels([panel]), workdir / CLAIM.pictures[0])


def facts(config: ContextGainConfig) -> dict[str, Any]:
    """The text."""
    from experiments.text.loading import corpus_facts

    return corpus_facts(config.corpus)


CLAIM = make_claim(
    module="experiments.claims.context_gain",
    doc=__doc__,
    sentence=(
        "Every carry has a wall: windows gain nothing beyond their reach, and what has none gains as far as "
        "it has learned to."
    ),
    pictures=("context_gain.png",),
    config=ContextGainConfig,
    quick={"num_train_steps": 600, "num_targets": 1000, "most_tokens": 128},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

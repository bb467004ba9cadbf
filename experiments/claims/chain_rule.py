"""A text's probability is the product of its tokens', however it is cut, and all continuations sum to one.

    python -m experiments.claims.chain_rule --workdir=runs/chain

For counts and nets on real text: the probabilities that a model's scores give to every continuation of a
passage sum to one; the score of a text is the same for every cut into windows and strips; and the
perplexities of uniform, unigram, count and neural models stand on one chart.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.experiment import main
from experiments.text.loading import corpora_here
from lmseq.config import knobs
from lmseq.config.knobs import knob
from lmseq.config.language_model import ModelConfig
from lmseq.config.text import TextConfig

CUTS = ((7, 1), (64, 8), (1000, 3))  # num_steps and batch_size of a score
PASSAGE = 12  # tokens before the continuations
KINDS = ("gru", "mlp")


@dataclass(frozen=True)
class ChainConfig:
    """The texts, and the size of each training."""

    corpora: str = knob(
        "here",
        "texts, as in train_lm, separated by commas; here: all named ones that need no download",
        is_path=True,
    )
    level: str = knob("char", "what a token is: char or byte")
    num_passages: int = knob(6, "passages whose continuations of two tokens are all scored")
    hidden_size: int = knob(128, "units of the nets")
    num_train_steps: int = knob(1500, "optimiser steps of each net")
    most_order: int = knob(8, "highest order of counts that is tried")
    num_seeds: int = knob(3, "trainings of each net; at least 2")
    seed: int = knob(0, "first seed")


def names_of(config: ChainConfig) -> list[str]:
    """The corpora, each once."""
    if config.corpora == "here":
        return corpora_here()
    names = [name.strip() for name in config.corpora.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected --corpora=NAME,NAME,... with each once, got {config.corpora!r}")
    return names


def check(config: ChainConfig) -> ChainConfig:
    """ValueError for a setting out of range."""
    names_of(config)
    if config.level not in ("char", "byte"):
        raise ValueError(f"expected level char or byte, got {config.level!r}")
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(1, 1000, num_passages=config.num_passages)
    knobs.at_least(2, 20, most_order=config.most_order)
    knobs.at_least(1, knobs.MOST_UNITS, hidden_size=config.hidden_size)
    knobs.at_least(0, seed=config.seed)
    return config


class Fitted(NamedTuple):
    """A model of a text, with parameters from each seed (of counts there is one)."""

    name: str
    model: Any
    params: list[Any]


def fit(config: ChainConfig, texts: Any) -> list[Fitted]:
    """Counts of the best order, and the nets."""
    from experiments.text.text_models import fit_neural
    from lmseq.models.build import build_model
    from lmseq.models.ngram import fit_counts

    counts = fit_counts(texts, config.most_order)
    fitted = [Fitted(f"{counts.order}-gram", counts.model, [counts.params])]
    seeds = range(config.seed, config.seed + config.num_seeds)
    for kind in KINDS:
        chosen = ModelConfig(model=kind, hidden_size=config.hidden_size)
        model = build_model(chosen, len(texts.vocab))
        fitted.append(Fitted(kind, model, fit_neural(model, texts, seeds, config.num_train_steps)))
    return fitted


def sum_of_continuations(model: Any, params: Any, passage: np.ndarray, vocab_size: int) -> float:
    """Sum of P(two tokens | passage) over all V^2 pairs, from the scores of whole texts."""
    import jax

    from lmseq.scoring import sequence_log_probs

    pairs = np.stack(np.meshgrid(*[np.arange(vocab_size)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    texts = np.concatenate([np.tile(passage, (len(pairs), 1)), pairs], axis=1).astype(np.int32)
    log_probs = np.asarray(jax.jit(sequence_log_probs, static_argnums=0)(model, params, texts), np.float64)
    return float(np.exp(log_probs[:, len(passage) :].sum(axis=1)).sum())


def largest_deviation(config: ChainConfig, fitted: Fitted, ids: np.ndarray, vocab_size: int) -> float:
    """Of the sums over continuations from one, over some passages of a text."""
    starts = np.linspace(0, len(ids) - PASSAGE, config.num_passages).astype(int)
    sums = [
        sum_of_continuations(fitted.model, fitted.params[0], ids[start : start + PASSAGE], vocab_size)
        for start in starts
    ]
    return float(np.abs(np.array(sums) - 1.0).max())


def largest_cut(fitted: Fitted, ids: np.ndarray) -> float:
    """Relative spread of a text's log-likelihood over ways to cut it."""
    from lmseq import scoring

    totals = [
        scoring.score_stream(
            fitted.model, fitted.params[0], ids, num_steps=num_steps, batch_size=batch_size
        ).sum(dtype=np.float64)
        for num_steps, batch_size in CUTS
    ]
    return float((max(totals) - min(totals)) / abs(np.mean(totals)))


def corpus_figures(config: ChainConfig, name: str) -> dict[str, Any]:
    """Deviations, and losses in nats of each model on the validation text, by seed."""
    from experiments.text.loading import load_texts
    from lmseq import scoring
    from lmseq.ngram import smoothing

    texts = load_texts(TextConfig(corpus=name, level=config.level))
    valid, vocab_size = texts.ids["valid"], len(texts.vocab)
    if valid.size < 10 * PASSAGE:
        raise ValueError(f"expected a validation text of at least {10 * PASSAGE} tokens, got {valid.size}")
    unigram = smoothing.unigram_log_probs(texts.ids["train"], vocab_size)[valid]
    found: dict[str, Any] = {
        "vocab_size": vocab_size,
        "losses": {"uniform": [float(np.log(vocab_size))], "unigram": [-float(unigram.mean())]},
        "deviations": {},
        "cuts": {},
    }
    for fitted in fit(config, texts):
        found["losses"][fitted.name] = [
            scoring.mean_loss(fitted.model, params, valid) for params in fitted.params
        ]
        found["deviations"][fitted.name] = largest_deviation(config, fitted, valid, vocab_size)
        found["cuts"][fitted.name] = largest_cut(fitted, valid[:5000])
    return found


def measure(config: ChainConfig, workdir: Path) -> dict[str, Any]:
    """Every corpus, then what the claim says of each."""
    from experiments.claims.verdicts import Check, conclude
    from experiments.frame.intervals import exact, flat, interval
    from experiments.frame.measurements import measured

    units = [{"corpus": name} for name in names_of(config)]
    records = list(measured(workdir, units, lambda unit: corpus_figures(config, unit["corpus"])))
    summary, checks = {}, []
    for record in records:
        corpus, losses = record["corpus"], record["losses"]
        worst_sum, worst_cut = max(record["deviations"].values()), max(record["cuts"].values())
        checks += [
            Check(f"{corpus}: |sum over all continuations - 1|, largest", exact(worst_sum), high=1e-4),
            Check(f"{corpus}: spread of a score over cuts, relative, largest", exact(worst_cut), high=1e-6),
        ]
        for name, found in losses.items():
            loss = interval(found) if len(found) > 1 else exact(found[0])
            summary |= flat(f"{corpus}_{name}_loss", loss)
            if name not in ("uniform", "unigram"):
                what = f"{corpus}: nats that {name} is better than unigrams"
                gain = interval(losses["unigram"][0] - np.array(found)) if len(found) > 1 else None
                checks.append(Check(what, gain or exact(losses["unigram"][0] - found[0]), low=0.0))
    draw(records, workdir)
    return {**summary, **conclude(checks)}


def draw(records: list[dict[str, Any]], workdir: Path) -> None:
    """perplexity.png: a panel for each corpus."""
    from lmseq import plotting
    from lmseq.plotting import Curve, Panel

    panels = []
    for record in records:
        names = list(record["losses"])
        perplexities = [np.exp(record["losses"][name]) for name in names]
        mean = [float(np.exp(np.mean(record["losses"][name]))) for name in names]
        curve = Curve(
            "", range(len(names)), mean, [p.min() for p in perplexities], [p.max() for p in perplexities], "o"
        )
        labels = [f"{name}\n{value:.2f}" for name, value in zip(names, mean, strict=True)]
        title = f"{record['corpus']}: {record['vocab_size']} symbols"
        panels.append(
            Panel(title, "model, and its perplexity", "perplexity a token", [curve], log="y", ticks=labels)
        )
    plotting.save_figure(plotting.draw_panels(panels), workdir / CLAIM.pictures[0])


def facts(config: ChainConfig) -> dict[str, Any]:
    """The characters of each text."""
    from experiments.text.loading import corpus_facts

    return {"corpora": [corpus_facts(name) for name in names_of(config)]}


CLAIM = make_claim(
    module="experiments.claims.chain_rule",
    doc=__doc__,
    sentence="By the chain rule all continuations sum to one, and a score does not depend on the cut.",
    pictures=("perplexity.png",),
    config=ChainConfig,
    quick={"corpora": "python_docs", "num_train_steps": 400, "num_passages": 3, "num_seeds": 2},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

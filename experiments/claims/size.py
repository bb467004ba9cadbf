"""Of models of equal size, a small recurrent net predicts a text better than counts; large counts do best.

    python -m experiments.claims.size --workdir=runs/size
    python -m experiments.claims.size --level=word --workdir=runs/size_words

Counts (modified Kneser-Ney of every order, config and without what is rare) and recurrent nets of several
widths are on one picture: perplexity on the test text against the bytes of the model, all numbers in 32 bits.
The counts taken for each size are the best on the test text itself, and between two sizes their loss is taken
to fall along a line in ln bytes: both favour counts. The claim has two halves: each net is better than
counts of its size; the largest counts are better than each net. Nets that are trained for too short a time
lose the first half.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.claims.claim import make_claim
from experiments.claims.frontier import bytes_for, frontier, least_loss
from experiments.frame.console import numbers
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.kinds import CellKind
from lmseq.config.knobs import knob
from lmseq.config.language_model import ModelConfig
from lmseq.config.text import TextConfig

PRUNED = (0, 1, 2, 4, 8, 16, 32, 64)  # n-grams from order 2 on that occur at most so often are left out


@dataclass(frozen=True)
class SizeConfig:
    """The text, the counts, and the size of each training."""

    corpus: str = knob("python_docs", "text, as in train_lm", is_path=True)
    level: Literal["char", "word"] = knob("char", "what a token is; words that occur once are <unk>")
    most_order: int = knob(8, "highest order of the counts")
    cell: CellKind = knob("gru", "recurrent cell")
    hidden_sizes: str = knob("16,32,64,128", "units of the recurrent nets, ascending")
    num_train_steps: int = knob(6000, "optimiser steps of each training")
    num_seeds: int = knob(4, "trainings of each net; at least 2")
    seed: int = knob(0, "first seed")


def check(config: SizeConfig) -> SizeConfig:
    """ValueError for a setting out of range."""
    sizes = numbers(config.hidden_sizes, "hidden_sizes")
    if sorted(set(sizes)) != sizes:
        raise ValueError(f"expected hidden_sizes in ascending order, each once, got {sizes}")
    knobs.at_least(1, knobs.MOST_UNITS, **{f"hidden_size_{size}": size for size in sizes})
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(2, 20, most_order=config.most_order)
    knobs.at_least(0, seed=config.seed)
    return config


def count_losses(counts: Any, counted: Any, order: int) -> list[dict[str, Any]]:
    """Bytes and test loss in nats a token of the counts of an order, for each threshold of PRUNED."""
    from experiments.claims.counting_walls.text import bytes_of
    from lmseq.ngram.backoff import score_words
    from lmseq.ngram.counts import BOS_ID
    from lmseq.ngram.smoothing import modified_kneser_ney

    test, rows = counted.streams["test"], []
    kept = test != BOS_ID
    if counted.vocab.level != "word":
        kept[-1] = False  # the end of the text, which no net predicts
    for threshold in PRUNED if order > 1 else PRUNED[:1]:
        prune = (0, *[threshold] * (order - 1))
        tables = modified_kneser_ney(counts[:order], discount_fallback=True, prune=prune).tables
        loss = -float(score_words(tables, test)[kept].mean())
        rows.append({"pruned": threshold, "bytes": bytes_of(tables), "loss": loss})
    return rows


def net_losses(config: SizeConfig, texts: Any, hidden_size: int) -> dict[str, Any]:
    """Bytes of a recurrent net, and its test losses in nats a token, one a seed."""
    import jax

    from experiments.text.text_models import fit_neural
    from lmseq import scoring
    from lmseq.models.build import build_model

    # One-hot words would make the first layer as large as the last.
    embedding = hidden_size if config.level == "word" else 0
    kind = ModelConfig(model=config.cell, hidden_size=hidden_size, embedding_size=embedding)
    model, seeds = build_model(kind, len(texts.vocab)), range(config.seed, config.seed + config.num_seeds)
    found = fit_neural(model, texts, list(seeds), config.num_train_steps)
    losses = [scoring.mean_loss(model, params, texts.ids["test"]) for params in found]
    return {"bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(found[0])), "losses": losses}


def measure(config: SizeConfig, workdir: Path) -> dict[str, Any]:
    """Bytes and losses of counts and of nets."""
    from experiments.frame.measurements import measured
    from experiments.text.loading import load_texts
    from lmseq.ngram.corpus import from_texts
    from lmseq.ngram.counts import count_ngrams

    least = 2 if config.level == "word" else 1
    texts = load_texts(TextConfig(corpus=config.corpus, level=config.level, min_count=least))
    counted = from_texts(texts)
    counts = count_ngrams(counted.streams["train"], counted.num_words, config.most_order)
    units = [{"order": order} for order in range(1, config.most_order + 1)]
    units += [{"hidden_size": size} for size in numbers(config.hidden_sizes, "hidden_sizes")]

    def figures(unit: dict[str, Any]) -> dict[str, Any]:
        if "order" in unit:
            return {"rows": count_losses(counts, counted, unit["order"])}
        return net_losses(config, texts, unit["hidden_size"])

    records = list(measured(workdir, units, figures))
    return judge(config, records[: config.most_order], records[config.most_order :], workdir)


def judge(
    config: SizeConfig, of_counts: list[dict[str, Any]], of_nets: list[dict[str, Any]], workdir: Path
) -> dict[str, Any]:
    """The nets' losses beside the counts' at the same bytes, the picture, and the verdict."""
    from experiments.claims.verdicts import Check, conclude
    from experiments.frame.intervals import flat, interval

    rows = [row for record in of_counts for row in record["rows"]]
    sizes, losses = frontier([row["bytes"] for row in rows], [row["loss"] for row in rows])
    summary: dict[str, Any] = {
        "best_counts_loss": float(losses[-1]),
        "best_counts_bytes": int(sizes[-1]),
        "frontier_bytes": sizes.astype(int).tolist(),
        "frontier_loss": losses.tolist(),
    }
    checks = []
    for record in of_nets:
        name, size = f"{config.cell}_{record['hidden_size']}", record["bytes"]
        found, counts = interval(record["losses"]), least_loss(sizes, losses, size)
        needed = bytes_for(sizes, losses, found.mean)
        summary |= flat(f"{name}_loss", found) | {
            f"{name}_bytes": size,
            f"{name}_counts_loss": counts if np.isfinite(counts) else None,
            f"{name}_counts_bytes_ratio": needed and needed / size,
        }
        if np.isfinite(counts):
            gap = interval(np.array(record["losses"]) - counts)
            summary |= flat(f"{name}_gap", gap)
            checks.append(Check(f"loss of {name} minus that of counts of {size:,} bytes", gap, high=0.0))
        rest = interval(losses[-1] - np.array(record["losses"]))
        checks.append(Check(f"least loss of counts of any size minus that of {name}", rest, high=0.0))
    draw(config, of_counts, (sizes, losses), of_nets, workdir)
    return {**summary, **conclude(checks)}


def draw(
    config: SizeConfig,
    of_counts: list[dict[str, Any]],
    best: tuple[np.ndarray, np.ndarray],
    of_nets: list[dict[str, Any]],
    workdir: Path,
) -> None:
    """size.png: perplexity against bytes, without the unigrams, which are far off."""
    from experiments.frame.intervals import interval
    from lmseq import plotting
    from lmseq.plotting import Curve, Panel

    unigrams, *unpruned = [record["rows"][0] for record in of_counts]
    sizes, losses = (array[best[1] < unigrams["loss"]] for array in best)
    mean, low, high = np.exp(np.array([interval(record["losses"]) for record in of_nets])).T
    orders = f"counts, whole, orders 2 to {config.most_order}"
    curves = [
        Curve("counts, the best pruned ones", sizes, np.exp(losses), style="-"),
        Curve(
            orders, [row["bytes"] for row in unpruned], np.exp([row["loss"] for row in unpruned]), style="o"
        ),
        Curve(
            f"{config.cell}, {config.hidden_sizes.replace(',', ', ')} units",
            [record["bytes"] for record in of_nets],
            mean,
            low,
            high,
            "s-",
        ),
    ]
    unit = "word" if config.level == "word" else "character"
    panel = Panel(
        f"{config.corpus}: what a byte of the model buys",
        "bytes of the model, all numbers in 32 bits",
        f"perplexity a {unit}, test text",
        curves,
        log="xy",
    )
    plotting.save_figure(plotting.draw_panels([panel]), workdir / CLAIM.pictures[0])


def facts(config: SizeConfig) -> dict[str, Any]:
    """The text."""
    from experiments.text.loading import corpus_facts

    return {**corpus_facts(config.corpus), "level": config.level}


CLAIM = make_claim(
    module="experiments.claims.size",
    doc=__doc__,
    sentence=(
        "Of models of equal size, a small recurrent net predicts a text better than counts; large counts do "
        "best."
    ),
    pictures=("size.png",),
    config=SizeConfig,
    quick={"hidden_sizes": "32,64", "num_train_steps": 5000, "num_seeds": 3},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

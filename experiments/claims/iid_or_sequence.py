"""Order matters inside a sequence, and not among examples: the article's first claim, both halves.

    python -m experiments.claims.iid_or_sequence --workdir=runs/order

Training examples are windows, taken one beside the other in the order of time. Permuting them, as i.i.d.
examples allow, leaves the test loss where it was. Scrambling time inside the sequence, before windows
are cut, takes it to that of a model that knows no order at all: the mean for a series, the unigram
distribution for a text. Both are measured from several seeds, with 95 % intervals.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.console import say
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.knobs import knob

CONDITIONS = ("as it is", "examples permuted", "time scrambled")
SAME = 0.1  # permuting examples may move the loss by this share of what order is worth
WORTHLESS = 0.9  # scrambling time must take away at least this share of it


@dataclass(frozen=True)
class OrderConfig:
    """The data and the size of each training."""

    corpus: str = knob("python_docs", "text, as in train_lm", is_path=True)
    num_tokens: int = knob(200_000, "characters of it that are used")
    num_points: int = knob(4000, "length of the series, a noisy sine of period 100")
    num_seeds: int = knob(5, "trainings under each condition; at least 2")
    num_train_steps: int = knob(1200, "optimiser steps of each training")
    hidden_size: int = knob(64, "units of the text's recurrent net and of the series' perceptron")
    seed: int = knob(0, "first seed")


BATCH_SIZE, NUM_STEPS, TAU, TEST_SHARE = 32, 32, 16, 0.2


def split(stream: np.ndarray, condition: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training and test part of a stream; with scrambled time, of the stream in an order drawn at random."""
    if condition == "time scrambled":
        stream = stream[rng.permutation(len(stream))]
    num_test = round(TEST_SHARE * len(stream))
    return stream[:-num_test], stream[-num_test:]


def example_plan(
    starts: np.ndarray, length: int, num_steps: int, batch_size: int, seed: int, epoch: int
) -> Any:
    """The examples, windows that begin at `starts`, in this order, B a batch; every epoch the same."""
    from lmseq.data.partition import Plan

    shape = (len(starts) // batch_size, batch_size)
    chosen = starts[: shape[0] * shape[1]].reshape(shape).astype(np.int32)
    return Plan(chosen, np.full(shape, num_steps, np.int32), np.ones(shape[0], bool))


class Domain:
    """A stream, a model of it, and the loss of knowing nothing of its order, from training and test part."""

    def __init__(
        self,
        config: OrderConfig,
        model: Any,
        stream: np.ndarray,
        num_steps: int,
        objective: Any,
        orderless: Callable[[np.ndarray, np.ndarray], float],
    ) -> None:
        from lmseq.config.training import TrainConfig

        every = config.num_train_steps
        self._train = TrainConfig(
            num_train_steps=every,
            warmup_steps=min(50, every - 1),
            steps_per_dispatch=every,
            eval_every=every,
            checkpoint_every=every,
        )
        self.model, self.stream, self._num_steps, self._orderless = model, stream, num_steps, orderless
        self._objective = objective

    def losses(self, condition: str, seed: int) -> dict[str, float]:
        """Test loss in nats after training under a condition, and that of the orderless model."""
        from lmseq import scoring
        from lmseq.training.fit import fit
        from lmseq.training.job import Batches

        rng = np.random.default_rng((seed, 1))
        train, test = split(self.stream, condition, rng)
        # In the order of time, one beside the other.
        starts = np.arange(0, len(train) - self._num_steps, self._num_steps)
        if condition == "examples permuted":
            starts = rng.permutation(starts)
        settings = dataclasses.replace(self._train, seed=seed)
        batches = Batches(BATCH_SIZE, self._num_steps, partial(example_plan, starts))
        params, _ = fit(self.model, train, settings, batches=batches, objective=self._objective)
        return {
            "loss": scoring.mean_loss(self.model, params, test),
            "orderless_loss": self._orderless(train, test),
        }


def unigram_loss(train: np.ndarray, test: np.ndarray) -> float:
    """Test loss of a text's frequencies, in nats a character."""
    from lmseq.ngram import smoothing

    vocab_size = int(max(train.max(), test.max())) + 1
    return -float(smoothing.unigram_log_probs(train, vocab_size)[test].mean())


def mean_loss(train: np.ndarray, test: np.ndarray) -> float:
    """Test loss of a series' mean: half the squared error plus ln(2 pi) / 2, as of a point prediction."""
    return float(0.5 * np.mean((test - train.mean()) ** 2) + 0.5 * np.log(2 * np.pi))


def build_domains(config: OrderConfig) -> dict[str, Domain]:
    """The text and the series, each with its model."""
    from experiments.text.loading import read_raw
    from lmseq.config.language_model import ModelConfig
    from lmseq.config.series import SeriesModelConfig
    from lmseq.data.tokens import build_vocab
    from lmseq.models.build import build_model, build_series_model
    from lmseq.training.objectives import teacher_forcing
    from lmseq.training.train_step import window_loss

    text = "".join(read_raw(config.corpus).parts.values())[: config.num_tokens]
    num_train = len(text) - round(TEST_SHARE * len(text))
    vocab = build_vocab(text[:num_train], level="char")
    ids = vocab.encode(text)
    gru = build_model(ModelConfig(model="gru", hidden_size=config.hidden_size), len(vocab))
    rng = np.random.default_rng(config.seed)
    t = np.arange(config.num_points)
    values = np.sin(2 * np.pi * t / 100) + 0.2 * rng.normal(size=len(t))
    known = values[: len(t) - round(TEST_SHARE * len(t))]
    values = ((values - known.mean()) / known.std()).astype(np.float32)[:, None]
    mlp = build_series_model(SeriesModelConfig(tau=TAU, hidden_size=config.hidden_size, num_layers=1), 1)
    return {
        "series": Domain(config, mlp, values, TAU, partial(teacher_forcing, tau=TAU), mean_loss),
        "text": Domain(config, gru, ids, NUM_STEPS, window_loss, unigram_loss),
    }


def judge(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Intervals of the losses, of what each disorder did, and whether both halves hold for both domains.

    What order is worth is the orderless loss minus the loss of the data as they are. Of it, permuted
    examples must lose nothing (interval within SAME on either side of 0) and scrambled time nearly all
    (interval above WORTHLESS).
    """
    from experiments.claims.verdicts import Check, conclude
    from experiments.frame.intervals import exact, flat, interval

    summary: dict[str, Any] = {}
    checks = []
    for domain in ("series", "text"):
        by = {
            condition: [r for r in records if (r["domain"], r["condition"]) == (domain, condition)]
            for condition in CONDITIONS
        }
        loss = {condition: np.array([r["loss"] for r in found]) for condition, found in by.items()}
        orderless = {c: np.array([r["orderless_loss"] for r in found]) for c, found in by.items()}
        worth = orderless["as it is"] - loss["as it is"]
        lost = {
            "examples permuted": (loss["examples permuted"] - loss["as it is"]) / worth,
            # Scrambled data have an orderless loss of their own; what is left of order is measured by it.
            "time scrambled": 1 - (orderless["time scrambled"] - loss["time scrambled"]) / worth,
        }
        say(f"{domain}, nats; what knows no order is trained and tested on the same data:")
        for condition in CONDITIONS:
            name = f"{domain}_{condition.replace(' ', '_')}"
            found = interval(loss[condition])
            summary |= flat(f"{name}_loss", found)
            told = ""
            if condition in lost:
                share = interval(lost[condition])
                summary |= flat(f"{name}_share_lost", share)
                told = f"   share of what order is worth that is lost: {share}"
            say(f"  {condition:<18} loss {found}   without order {orderless[condition].mean():.4f}{told}")
        summary[f"{domain}_orderless_loss"] = float(orderless["as it is"].mean())
        lasting = interval(lost["examples permuted"])
        checks += [
            Check(
                f"{domain}: what order is worth, nats, the least of all seeds", exact(worth.min()), low=0.0
            ),
            Check(f"{domain}: share of it that permuting examples loses", lasting, -SAME, SAME),
            Check(
                f"{domain}: share of it that scrambling time loses",
                interval(lost["time scrambled"]),
                low=WORTHLESS,
            ),
        ]
    return {**summary, **conclude(checks)}


def check(config: OrderConfig) -> OrderConfig:
    """ValueError for a setting out of range."""
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(1, hidden_size=config.hidden_size, num_tokens=config.num_tokens)
    knobs.at_least(20 * BATCH_SIZE, num_points=config.num_points)
    knobs.at_least(0, seed=config.seed)
    return config


def measure(config: OrderConfig, workdir: Path) -> dict[str, Any]:
    """Losses of each domain under each condition."""
    from experiments.claims import disorder_picture
    from experiments.frame.measurements import measured
    from lmseq import plotting

    domains = build_domains(config)
    seeds = range(config.seed, config.seed + config.num_seeds)
    units = [{"domain": d, "condition": c, "seed": s} for d in domains for c in CONDITIONS for s in seeds]

    def losses(unit: dict[str, Any]) -> dict[str, float]:
        return domains[unit["domain"]].losses(unit["condition"], unit["seed"])

    summary = judge(list(measured(workdir, units, losses)))
    panels = disorder_picture.panels(summary, CONDITIONS)
    plotting.save_figure(plotting.draw_panels(panels), workdir / "order.png")
    return summary


def facts(config: OrderConfig) -> dict[str, Any]:
    """The text."""
    from experiments.text.loading import corpus_facts

    found, needed = corpus_facts(config.corpus), 10 * BATCH_SIZE * NUM_STEPS
    used = min(found["characters"], config.num_tokens)
    if used < needed:
        raise ValueError(f"expected a text of at least {needed} characters, got {used}")
    return found


CLAIM = make_claim(
    module="experiments.claims.iid_or_sequence",
    doc=__doc__,
    sentence="Training examples may be shuffled, the time inside a sequence may not.",
    pictures=("order.png",),
    config=OrderConfig,
    quick={"num_seeds": 3, "num_train_steps": 600},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

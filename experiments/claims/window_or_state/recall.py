"""Windows forget, hidden states need not: recall of a symbol seen L steps ago.

    python -m experiments.claims.window_or_state --workdir=runs/recall

Each block of the stream shows an item, then distractors, then a cue, and after the cue the item again,
exactly L steps after it was shown. A model that sees the last tau < L tokens cannot know the answer, however
it is trained: its error is that of guessing. A window with tau >= L can, and so can a hidden state of any L
that it has learned to hold.

The same on a hidden Markov source, in nats: a model that sees tau tokens cannot pass below H_tau, which is
known by enumeration; a recurrent net can, and comes near the exact entropy rate.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.claims.window_or_state import hidden_source
from experiments.claims.window_or_state.hidden_source import HiddenConfig
from experiments.frame.console import numbers, say
from lmseq.config import knobs
from lmseq.config.kinds import CellKind
from lmseq.config.knobs import knob

NUM_ITEMS, NUM_DISTRACTORS = 4, 2
CUE = NUM_ITEMS + NUM_DISTRACTORS
VOCAB_SIZE = CUE + 1
CHANCE = 1.0 - 1.0 / NUM_ITEMS
MARGIN = 0.1  # of the chance error: what counts as guessing, and a fifth of what counts as knowing


@dataclass(frozen=True)
class RecallConfig:
    """The lags, the windows and the size of each training."""

    lags: str = knob("2,4,8,16,32", "steps between an item and its recall, ascending")
    taus: str = knob("2,4,8,16,32", "window lengths of the perceptron")
    cell: CellKind = knob("gru", "recurrent cell that stands beside the windows")
    hidden_size: int = knob(64, "units of either model")
    num_seeds: int = knob(4, "trainings of each model on each lag; at least 2")
    num_train_steps: int = knob(600, "optimiser steps of each training")
    num_blocks: int = knob(4000, "blocks to train on, and as many to test on")
    batch_size: int = knob(64, "blocks of a batch")
    learning_rate: float = knob(5e-3, "peak learning rate")
    seed: int = knob(0, "first seed")


@dataclass(frozen=True)
class WindowOrStateConfig:
    """All of the experiment."""

    recall: RecallConfig = field(default_factory=RecallConfig)
    hidden: HiddenConfig = field(default_factory=HiddenConfig)


def recall_stream(rng: np.random.Generator, lag: int, num_blocks: int) -> np.ndarray:
    """Blocks  item, L - 2 distractors, cue, item  (at lag 1: item, item), int32 (num_blocks * (L + 1),)."""
    blocks = rng.integers(NUM_ITEMS, CUE, size=(num_blocks, lag + 1), dtype=np.int32)
    blocks[:, 0] = blocks[:, -1] = rng.integers(NUM_ITEMS, size=num_blocks)
    if lag > 1:
        blocks[:, -2] = CUE
    return blocks.reshape(-1)


def answer_loss(model: Any, params: Any, carry: Any, batch: Any, step: Any) -> Any:
    """Negative log-likelihood of the answers alone, the last target of each block."""
    import jax.numpy as jnp

    from lmseq.training.gradient import Losses
    from lmseq.types import NllTotals

    start = model.init_carry(params, batch.inputs.shape[0])
    _, log_probs = model.token_log_probs(
        params, start, batch.inputs, batch.targets, training=True, key=step.key
    )
    totals = NllTotals(-jnp.sum(log_probs[:, -1]), jnp.asarray(log_probs.shape[0], jnp.int32))
    return Losses(totals, carry, totals)


def block_plan(length: int, lag: int, batch_size: int, seed: int, epoch: int) -> Any:
    """The blocks, of lag + 1 tokens each, in an order of the epoch's own."""
    from lmseq.data.partition import Plan

    num_blocks = length // (lag + 1)
    order = np.random.default_rng((seed, epoch)).permutation(num_blocks)
    shape = (num_blocks // batch_size, batch_size)
    starts = order[: shape[0] * shape[1]].reshape(shape) * (lag + 1)
    return Plan(starts.astype(np.int32), np.full(shape, lag, np.int32), np.ones(shape[0], bool))


class Recall:
    """Measures one model on one lag from one seed; keeps what it compiled for the seeds that follow."""

    def __init__(self, config: RecallConfig) -> None:
        self._config, self._trained_for = config, None

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        """The share of wrong answers on blocks that were not trained on."""
        import jax
        import jax.numpy as jnp

        from lmseq.training.fit import fit
        from lmseq.training.job import Batches

        config, lag = self._config, unit["lag"]
        if self._trained_for != (lag, unit["tau"]):
            self._trained_for = (lag, unit["tau"])
            self._set_up(lag, unit["tau"])
        rng = np.random.default_rng((unit["seed"], lag))
        train, test = (recall_stream(rng, lag, config.num_blocks) for _ in range(2))
        settings = dataclasses.replace(self._train, seed=unit["seed"])
        batches = Batches(config.batch_size, lag, block_plan)
        params, _ = fit(self._model, train, settings, batches=batches, objective=answer_loss)
        blocks = jnp.asarray(test.reshape(-1, lag + 1))
        answers = jnp.argmax(self._answers(params, blocks[:, :-1]), axis=-1)
        return {"error": float(np.mean(np.asarray(jax.device_get(answers != blocks[:, -1]))))}

    def _set_up(self, lag: int, tau: int) -> None:
        import jax

        from lmseq.config.language_model import ModelConfig
        from lmseq.config.training import TrainConfig
        from lmseq.models.build import build_model

        config = self._config
        if tau:
            chosen = ModelConfig(model="mlp", tau=tau, hidden_size=config.hidden_size, embedding_size=8)
        else:
            chosen = ModelConfig(model=config.cell, hidden_size=config.hidden_size)
        model = self._model = build_model(chosen, VOCAB_SIZE)
        self._train = TrainConfig(
            learning_rate=config.learning_rate,
            num_train_steps=config.num_train_steps,
            warmup_steps=min(50, config.num_train_steps - 1),
            steps_per_dispatch=config.num_train_steps,
            eval_every=config.num_train_steps,
            checkpoint_every=config.num_train_steps,
        )

        @jax.jit
        def answers(params, inputs):
            carry = model.unroll(params, model.init_carry(params, inputs.shape[0]), inputs)[0]
            return model.readout(params, carry)

        self._answers = answers


def judge(config: RecallConfig, records: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Intervals of the error by lag and window, and what the claim says of each."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    lags, taus = numbers(config.lags, "lags"), numbers(config.taus, "taus")
    summary, checks = {"chance_error": CHANCE}, []
    say(f"{'error, L steps back':<20}" + "".join(f"{lag:>24}" for lag in lags))
    for tau in (*taus, 0):
        cells = []
        for lag in lags:
            found = interval([r["error"] for r in records if (r["lag"], r["tau"]) == (lag, tau)])
            name = f"tau_{tau}" if tau else config.cell
            # Guessing: the whole interval is near chance. Knowing: all of it is below half of chance.
            what = f"error of {name} {lag} steps back"
            if 0 < tau < lag:
                checks.append(Check(what, found, low=(1 - MARGIN) * CHANCE))
            else:
                checks.append(Check(what, found, high=5 * MARGIN * CHANCE))
            summary |= flat(f"error_{name}_lag_{lag}", found)
            cells.append(f"{found!s:>24}")
        say(f"{f'window, tau = {tau}' if tau else config.cell:<20}" + "".join(cells))
    say(f"{'guessing':<20}" + "".join(f"{CHANCE:>24.4g}" for _ in lags))
    return summary, checks


def check(whole: WindowOrStateConfig) -> WindowOrStateConfig:
    """ValueError for a setting out of range."""
    config = whole.recall
    lags, taus = numbers(config.lags, "lags"), numbers(config.taus, "taus")
    for name, values in (("lags", lags), ("taus", taus)):
        if sorted(set(values)) != values:
            raise ValueError(f"expected {name} in ascending order, each once, got {values}")
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(1, hidden_size=config.hidden_size, batch_size=config.batch_size)
    knobs.at_least(1, num_blocks=config.num_blocks)
    if config.num_blocks < config.batch_size:
        raise ValueError(
            f"expected num_blocks of at least batch_size={config.batch_size}, got {config.num_blocks}"
        )
    knobs.at_least(0, seed=config.seed)
    if not 0 < config.learning_rate < float("inf"):
        raise ValueError(f"expected a positive learning_rate, got {config.learning_rate}")
    hidden_source.check(config, whole.hidden)
    return whole


def measure(whole: WindowOrStateConfig, workdir: Path) -> dict[str, Any]:
    """Recall by lag and window, then losses on the hidden Markov source."""
    from experiments.claims.verdicts import conclude
    from experiments.claims.window_or_state import recall_picture
    from experiments.frame.measurements import measured
    from lmseq import plotting

    config = whole.recall
    lags, taus = numbers(config.lags, "lags"), numbers(config.taus, "taus")
    seeds = range(config.seed, config.seed + config.num_seeds)
    units = [{"lag": lag, "tau": tau, "seed": s} for lag in lags for tau in (*taus, 0) for s in seeds]
    recalled, source = Recall(config), hidden_source.Source(config, whole.hidden)

    def figures(unit: dict[str, Any]) -> dict[str, Any]:
        return recalled(unit) if "lag" in unit else source(unit)

    records = list(measured(workdir, [*units, *source.units()], figures))
    summary, checks = judge(config, records[: len(units)])
    panel = recall_picture.panel(summary, config.cell, lags, taus)
    plotting.save_figure(plotting.draw_panels([panel]), workdir / "recall.png")
    more, more_checks = source.judge(records[len(units) :], workdir / "hidden_source.png")
    return {**summary, **more, **conclude([*checks, *more_checks])}


CLAIM = make_claim(
    module="experiments.claims.window_or_state",
    doc=__doc__,
    sentence="A window forgets what lies before it, whatever it is trained on; a hidden state need not.",
    pictures=("recall.png", "hidden_source.png"),
    config=WindowOrStateConfig,
    quick={
        "lags": "4,16",
        "taus": "4,16",
        "num_seeds": 3,
        "num_train_steps": 500,
        "source_steps": 600,
        "num_tokens": 300_000,
    },
    check=check,
    facts=lambda whole: {"task": "delayed recall", "items": NUM_ITEMS, "distractors": NUM_DISTRACTORS},
    measure=measure,
)

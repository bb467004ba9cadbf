"""Training steps of language models side by side: what is measured of each, and how they are compared."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from benchmarks.measure import Peer, Spread, Steps, interleaved
from experiments.frame.console import say

LEARNING_RATE, CLIP_NORM, DISPATCH = 0.1, 1.0, 10
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
FIRST = 3  # steps whose losses are compared


class Work(Protocol):
    """Shapes of a training step, a NamedTuple."""

    batch_size: int
    num_steps: int

    def _asdict(self) -> dict[str, Any]: ...


def dispatches(model: Any, params: Any, tokens: np.ndarray) -> Steps:
    """Dispatches of some steps each, all on the same windows, each step from the initial carry."""
    import jax
    import jax.numpy as jnp

    from lmseq.config.training import TrainConfig
    from lmseq.data.partition import Plan
    from lmseq.scoring import nll_totals
    from lmseq.training.gradient import Losses, StepInfo
    from lmseq.training.optimizer import make_optimizer
    from lmseq.training.state import LoopState, TrainState
    from lmseq.training.train_step import make_dispatch
    from lmseq.types import Batch

    batch_size, width = tokens.shape
    train = TrainConfig(
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        schedule="constant",
        warmup_steps=0,
        clip_norm=CLIP_NORM,
    )
    optimizer = make_optimizer(train)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    training = LoopState(state, model.init_carry(params, batch_size))
    starts = jnp.tile(jnp.arange(batch_size, dtype=jnp.int32) * width, (DISPATCH, 1))
    plan = Plan(starts, jnp.full((DISPATCH, batch_size), width - 1, jnp.int32), jnp.zeros(DISPATCH, bool))

    def anew(model: Any, params: Any, carry: Any, batch: Batch, step: StepInfo) -> Losses:
        start = model.init_carry(params, batch_size)
        end, log_probs = model.token_log_probs(
            params, start, batch.inputs, batch.targets, training=True, key=step.key
        )
        totals = nll_totals(log_probs, batch.mask)
        return Losses(totals, end, totals)

    dispatch = make_dispatch(model, optimizer, width - 1, anew)
    stream, key = jnp.asarray(tokens.reshape(-1)), jax.random.key(0)

    def work() -> list[float]:
        nonlocal training
        training, metrics = dispatch(training, stream, plan, key)
        return (np.asarray(metrics.totals.nll) / np.asarray(metrics.totals.count)).tolist()

    return work, DISPATCH


def compare(
    name: str,
    work: Work,
    builders: dict[str, Callable[..., Steps]],
    sides: list[tuple[str, str]],
    seed: int,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """One row: the seconds a step of sides (name, precision), after their first losses were found equal.

    builders: (work, precision, seed) -> steps, by the side's name.
    """
    peers: dict[str, Peer] = {}
    try:
        for side, precision in sides:
            label = side if precision == "float32" else f"{side}_bf16"
            peers[label] = Peer(builders[side], work, precision, seed)
        losses = {label: peer.ask("losses", FIRST) for label, peer in peers.items()}
        expected = next(iter(losses.values()))
        for label, found in losses.items():
            rough = label.endswith("bf16") or getattr(work, "dropout", 0)  # whose masks differ
            tolerance = TOLERANCE["bfloat16" if rough else "float32"]
            if not np.allclose(found, expected, rtol=tolerance):
                raise ArithmeticError(f"{name}: expected the losses {expected}, {label} has {found}")
        spreads, disturbed = interleaved(peers, rounds, seconds)
    finally:
        for peer in peers.values():
            peer.close()
    show(name, work, spreads)
    milliseconds = {label: [1e3 * x for x in spread] for label, spread in spreads.items()}
    return {"work": work._asdict(), "losses": losses, "milliseconds": milliseconds, "disturbed": disturbed}


def show(name: str, work: Work, spreads: dict[str, Spread]) -> None:
    """A line a side."""
    tokens = work.batch_size * work.num_steps
    for label, spread in spreads.items():
        side = "torch" if "torch" in spreads else "lmseq"
        against = spreads[f"{side}_bf16" if label.endswith("bf16") else side]
        say(
            f"{name:<16} {label:<11} {1e3 * spread.median:8.2f} ms [{1e3 * spread.least:.2f}, "
            f"{1e3 * spread.most:.2f}]  {tokens / spread.median / 1e3:7.1f}k tokens/s  "
            f"{against.median / spread.median:5.2f}"
        )

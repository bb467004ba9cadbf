"""From a config and a step number to the next dispatches; the data position is the step itself."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lmseq.config.training import TrainConfig
from lmseq.data.partition import Plan
from lmseq.training.sharding import plan_sharding
from lmseq.training.state import LoopState
from lmseq.training.train_step import Dispatch, StepMetrics, first_non_finite
from lmseq.types import PRNGKey, Stream


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient of the named step is not a finite number."""


class Dispatched(NamedTuple):
    """Where a dispatch ended: the step, the state there, the metrics of its steps on the host."""

    step: int
    training: LoopState
    metrics: StepMetrics


def boundaries(start: int, stop: int, *periods: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) at every multiple of any period, as pairs (first, end).

    A function of the config alone: a run that goes on from any cut makes the same cuts as one that was
    never stopped, so the same programs run on the same steps.
    """
    while start < stop:
        end = min(stop, *(period * (start // period + 1) for period in periods))
        yield start, end
        start = end


class PlanStream:
    """The batches of all epochs in a row, addressed by step; `plan_of` gives those of one epoch."""

    def __init__(self, plan_of: Callable[[int], Plan]) -> None:
        self._plan = lru_cache(maxsize=2)(plan_of)
        self._ends: list[int] = []

    def slice(self, start: int, stop: int) -> Plan:
        """The rows of steps start ... stop - 1, whatever epochs they lie in."""
        pieces, epoch, first = [], 0, 0
        while first < stop:
            if epoch == len(self._ends):
                self._ends.append(first + len(self._plan(epoch).resets))
            end = self._ends[epoch]
            if start < end:
                rows = slice(max(start - first, 0), stop - first)
                pieces.append(Plan(*(leaf[rows] for leaf in self._plan(epoch))))
            epoch, first = epoch + 1, end
        return Plan(*(np.concatenate(leaves) for leaves in zip(*pieces, strict=True)))


def dispatches(
    train: TrainConfig,
    plans: PlanStream,
    dispatch: Dispatch,
    mesh: Mesh,
    training: LoopState,
    tokens: Stream,
    key: PRNGKey,
) -> Iterator[Dispatched]:
    """Train from the state's step to num_train_steps, yielding after each dispatch.

    Waits for every dispatch: programs with collectives that queue up behind each other can deadlock on
    virtual devices, and the caller wants its loss anyway. Raises NonFiniteLossError naming the step.
    """
    periods = (train.steps_per_dispatch, train.eval_every, train.checkpoint_every)
    for start, stop in boundaries(int(training.state.step), train.num_train_steps, *periods):
        plan = jax.device_put(plans.slice(start, stop), plan_sharding(mesh))
        training, metrics = dispatch(training, tokens, plan, key)
        metrics = jax.device_get(jax.block_until_ready(metrics))
        bad = first_non_finite(metrics, start)
        if bad is not None:
            raise NonFiniteLossError(
                f"the loss or its gradient is not finite at step {bad}: lower learning_rate or clip_norm"
            )
        yield Dispatched(stop, training, metrics)

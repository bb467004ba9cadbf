"""From a config and a step number to the next dispatches; the data position is the step itself."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lmseq.config.training import TrainConfig
from lmseq.data.partition import Epoch, Plan
from lmseq.training.feeding import HostStream, feed
from lmseq.training.state import LoopState
from lmseq.training.train_step import Dispatch, StepMetrics, first_non_finite
from lmseq.types import PRNGKey, Stream


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient of the named step is not a finite number."""


class Dispatched(NamedTuple):
    """Where a dispatch ended: the step, the state there, the metrics of its steps on the host.

    Of an ensemble of S members every leaf of the state and the metrics has a leading axis S.
    """

    step: int
    loop_state: LoopState
    metrics: StepMetrics


Settle = Callable[[Dispatched], LoopState]  # what is done with a dispatch before the next
Around = Callable[[int, int], AbstractContextManager]  # of the dispatch of steps first ... end - 1


def boundaries(start: int, stop: int, *periods: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) at every multiple of any period, as pairs (first, end).

    A function of the config alone: a run that goes on from any cut makes the same cuts as one that was
    never stopped, so the same programs run on the same steps.
    """
    while start < stop:
        end = min(stop, *(period * (start // period + 1) for period in periods))
        yield start, end
        start = end


def cuts_of(train: TrainConfig, step: int) -> list[tuple[int, int]]:
    """The dispatches of a training from a step on, as pairs (first, end): evaluations lie between them."""
    periods = (train.steps_per_dispatch, train.eval_every, train.checkpoint_every)
    return list(boundaries(step, train.num_train_steps, *periods))


class PlanStream:
    """The batches of all epochs in a row, addressed by step; `epoch_of` gives those of one epoch."""

    def __init__(self, epoch_of: Callable[[int], Epoch]) -> None:
        self._epoch = lru_cache(maxsize=2)(epoch_of)
        self._ends: list[int] = []

    def slice(self, start: int, stop: int) -> Plan:
        """The rows of steps start ... stop - 1, whatever epochs they lie in."""
        pieces, epoch, first = [], 0, 0
        while first < stop:
            if epoch == len(self._ends):
                self._ends.append(first + self._epoch(epoch).num_batches)
            end = self._ends[epoch]
            if start < end:
                pieces.append(self._epoch(epoch).rows(max(start - first, 0), min(stop, end) - first))
            epoch, first = epoch + 1, end
        return Plan(*(np.concatenate(leaves) for leaves in zip(*pieces, strict=True)))


def advance(
    cuts: Iterable[tuple[int, int]],
    batches_of: Callable[[int, int], Any],
    dispatch: Callable[[LoopState, Any], tuple[LoopState, StepMetrics]],
    check: Callable[[StepMetrics, int], None],
    loop_state: LoopState,
    settle: Settle = lambda done: done.loop_state,
    around: Around = lambda first, end: nullcontext(),
) -> Iterator[Dispatched]:
    """The loop of every training: dispatch each cut (first, end) on its batches, wait, check, and yield.

    batches_of: those of the steps first ... end - 1, on their devices. check: raises for metrics that are not
    finite, given the step that they begin after. settle: gives the state to go on with, and to yield. around:
    the context of a dispatch and of waiting for it. Waits for every dispatch: programs with collectives that
    queue up behind each other can deadlock on virtual devices, and the caller wants its loss anyway. A
    yielded state is donated to the next dispatch.
    """
    for start, stop in cuts:
        batches = batches_of(start, stop)
        with around(start, stop):
            loop_state, metrics = dispatch(loop_state, batches)
            metrics = jax.device_get(jax.block_until_ready(metrics))
        check(metrics, start)
        done = Dispatched(stop, loop_state, metrics)
        loop_state = settle(done)
        yield done._replace(loop_state=loop_state)


def dispatches(
    train: TrainConfig,
    plans: PlanStream,
    dispatch: Dispatch,
    mesh: Mesh,
    loop_state: LoopState,
    tokens: Stream | HostStream,
    key: PRNGKey,
    settle: Settle = lambda done: done.loop_state,
    around: Around = lambda first, end: nullcontext(),
) -> Iterator[Dispatched]:
    """Train one model from the state's step to num_train_steps, yielding after each dispatch.

    tokens: on the device, or on the host, from where a dispatch's windows are sent before it begins. settle,
    around: as in `advance`. Raises NonFiniteLossError naming the step.
    """
    cuts = cuts_of(train, int(loop_state.state.step))
    with closing(feed(cuts, plans.slice, mesh, tokens)) as fed:
        yield from advance(
            cuts,
            lambda start, stop: next(fed),
            lambda loop_state, fed: dispatch(loop_state, fed.stream, fed.plan, key),
            _check_finite,
            loop_state,
            settle,
            around,
        )


def _check_finite(metrics: StepMetrics, first_step: int) -> None:
    bad = first_non_finite(metrics, first_step)
    if bad is not None:
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite at step {bad}: lower learning_rate or clip_norm"
        )

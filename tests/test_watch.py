"""What is recorded of made-up dispatches: figures, the best, the target, and which checkpoints are due."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from lmseq.config.training import TrainConfig
from lmseq.training.checkpoint import Progress
from lmseq.training.loop import Dispatched
from lmseq.training.state import LoopState, TrainState
from lmseq.training.train_step import StepMetrics
from lmseq.training.watch import Watcher
from lmseq.types import NllTotals

TRAIN = TrainConfig(
    num_train_steps=20, steps_per_dispatch=5, eval_every=5, checkpoint_every=10, target_loss=1.5
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def dispatched(step: int, num_steps: int = 5, nll: float = 6.0, count: int = 4) -> Dispatched:
    totals = NllTotals(np.full(num_steps, nll, np.float32), np.full(num_steps, count, np.int32))
    parameters = LoopState(TrainState(jnp.int32(step), {"step": step}, ()), ())
    return Dispatched._make((step, parameters, StepMetrics(totals, np.arange(num_steps, dtype=np.float32))))


def watcher(losses=None, clock=None, train=TRAIN, **given) -> Watcher:
    evaluate = (
        None if losses is None else lambda params, step: {"valid_loss": losses[step], "at": params["step"]}
    )
    settings = {"has_perplexity": True, "clock": clock or Clock()}
    return Watcher(train, evaluate, **(settings | given))


def steps_of(watching: Watcher, clock: Clock, steps=(5, 10, 15, 20)):
    """The record of each dispatch of a second, and whether a checkpoint was due after it."""
    found = []
    for step in steps:
        clock.now += 1.0
        record = watching.record(dispatched(step))
        found.append((record, watching.wants_checkpoint()))
        watching.go_on()
    return found


@pytest.mark.parametrize("has_perplexity", [True, False])
def test_the_figures_of_a_dispatch(has_perplexity):
    clock = Clock()
    watching = watcher(clock=clock, has_perplexity=has_perplexity)
    clock.now = 2.0
    record = watching.record(dispatched(5))
    expected = {"step": 5, "train_loss": 1.5, "grad_norm": 4.0, "tokens_per_second": 10.0}
    if has_perplexity:
        expected["train_perplexity"] = math.exp(1.5)
    assert record == expected


def test_the_best_the_target_and_what_is_saved():
    clock, losses = Clock(), {5: 2.0, 10: 1.4, 15: 1.6, 20: 1.3}
    watching = watcher(losses, clock)
    found = steps_of(watching, clock)
    assert [record["valid_loss"] for record, _ in found] == list(losses.values())
    assert [record["at"] for record, _ in found] == list(losses), "evaluated with the parameters of the step"
    assert [due for _, due in found] == [True, True, False, True], "the best so far; and a multiple of ten"
    assert watching.progress() == Progress(1.3, 1.3, 20, 4.0, seconds_to_target_loss=2.0)


@pytest.mark.parametrize("losses", [None, {5: None, 10: None, 15: None, 20: None}])
def test_without_a_validation_loss_multiples_and_the_last_are_saved(losses):
    clock = Clock()
    watching = watcher(losses, clock)
    assert [due for _, due in steps_of(watching, clock)] == [False, True, False, True]
    assert watching.progress() == Progress(seconds=4.0)


def test_a_loss_belongs_to_the_step_that_it_was_measured_at():
    clock = Clock()
    watching = watcher({10: 1.0}, clock, train=TrainConfig(num_train_steps=40, eval_every=10))
    steps_of(watching, clock, (10, 15))
    assert watching.progress()[:3] == (None, 1.0, 10)


def test_going_on_keeps_what_was_known():
    clock, before = Clock(), Progress(None, 1.2, 5, 100.0, 50.0)
    watching = watcher({15: 1.3, 20: 1.1}, clock, progress=before, step=10)
    found = steps_of(watching, clock, (15, 20))
    assert [due for _, due in found] == [False, True]
    assert watching.progress() == Progress(1.1, 1.1, 20, 102.0, 50.0)


def test_speed_leaves_out_compiling_and_what_comes_between():
    clock = Clock()
    watching = watcher(clock=clock)
    assert watching.tokens_per_second() is None and watching.seconds_to_first_step is None
    for step, num_steps, seconds in ((5, 5, 9.0), (10, 5, 2.0), (12, 2, 7.0), (17, 5, 2.0)):
        clock.now += seconds
        watching.record(dispatched(step, num_steps))
        clock.now += 100.0  # an evaluation, or a checkpoint
        watching.go_on()
    assert watching.seconds_to_first_step == 9.0
    assert watching.tokens_per_second() == (20 + 20) / (2.0 + 2.0)

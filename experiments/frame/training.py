"""From a job to trained parameters: restore, train and watch, save, stop on a signal."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments.frame.command import StoppedError
from experiments.frame.console import say
from experiments.frame.watch import Evaluate, Watcher
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.partition import Plan
from lmseq.models.interface import count_parameters
from lmseq.training import checkpoint, loop, optimizer, sharding, state, train_step
from lmseq.types import Params, PRNGKey, Stream


class Job(NamedTuple):
    """What is trained, on what, and how it is judged on the way.

    plan_of gives the batches of an epoch, each of batch_size windows of num_steps inputs of the stream.
    """

    train: TrainConfig
    workdir: Path
    model: Model
    stream: Stream
    plan_of: Callable[[int], Plan]
    batch_size: int
    num_steps: int
    evaluate: Evaluate
    unit: str
    objective: train_step.Objective = train_step.window_loss


class Trained(NamedTuple):
    """What a finished training leaves: parameters, its watcher, and a key for what comes after."""

    params: Params
    watcher: Watcher
    key: PRNGKey


class Stop:
    """Set by SIGTERM or SIGINT, looked at between dispatches; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}

    def close(self) -> None:
        """Let the signals do what they did before: all is saved, and nobody looks here any more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)  # which ends the process even inside a program of XLA's


BYTES_A_PARAMETER = 16  # the value, its gradient and Adam's two moments, float32


def check_fits(model: Model) -> None:
    """ValueError for a model whose training would need more memory than there is: XLA would hang or abort."""
    num_parameters = count_parameters(jax.eval_shape(model.init, jax.random.key(0)))
    there = (jax.devices()[0].memory_stats() or {}).get("bytes_limit") or (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    if BYTES_A_PARAMETER * num_parameters > there:
        raise ValueError(
            f"training {num_parameters:,} parameters takes {BYTES_A_PARAMETER} bytes of memory for each, and "
            f"there are {there / 2**30:.1f} GiB: make the model smaller"
        )


def run(job: Job, description: str) -> Trained:
    """Train from the newest checkpoint to the end. Raises StoppedError where a signal stopped it; all is saved."""
    stop, train = Stop(), job.train
    mesh = sharding.make_mesh()
    init_key, train_key, sample_key, after_key = jax.random.split(jax.random.key(train.seed), 4)
    updates = optimizer.make_optimizer(train)
    fresh = state.init_training_jit(init_key, job.model, updates, job.batch_size)
    shardings = sharding.training_sharding(mesh, fresh)
    manager = checkpoint.open_manager(job.workdir, keep=train.keep_checkpoints)
    restored = checkpoint.restore_latest(manager, fresh, shardings)
    training = jax.device_put(restored.training, shardings)
    for line in restored.skipped:
        say(line)
    if restored.step:
        say(f"continuing from step {restored.step}")
    say(f"{description}, {count_parameters(training.state.params):,} parameters")

    watcher = Watcher(
        train, job.workdir, job.unit, job.evaluate, sample_key, restored.progress, restored.step
    )
    stream = jax.device_put(np.asarray(job.stream), sharding.replicated(mesh))
    dispatch = train_step.make_dispatch(job.model, updates, job.num_steps, job.objective)
    plans = loop.PlanStream(job.plan_of)
    num_steps = train.num_train_steps
    bar = tqdm(total=num_steps, initial=restored.step, disable=not sys.stderr.isatty(), leave=False)
    with ExitStack() as at_exit:
        at_exit.enter_context(closing(stop))
        at_exit.callback(checkpoint.close, manager)  # waits for the last save, whatever ends the loop
        at_exit.enter_context(closing(watcher))
        at_exit.enter_context(bar)
        for done in loop.dispatches(train, plans, dispatch, mesh, training, stream, train_key):
            training = done.training
            bar.set_postfix_str(watcher.record(done), refresh=False)
            bar.update(done.step - bar.n)
            if watcher.wants_checkpoint(done.step) or stop.signal is not None:
                checkpoint.save(manager, done.step, training, watcher.progress())
            if stop.signal is not None:
                break
            watcher.go_on()
    if stop.signal is not None:
        say(f"stopped at step {training.state.step}, saved; the same command goes on from here")
        raise StoppedError(stop.signal)
    return Trained(training.state.params, watcher, after_key)

"""A training as the scripts show it: a bar, lines of progress, and signals that stop it."""

import json
import signal
import sys
from contextlib import closing
from typing import Any

from tqdm import tqdm

from experiments.frame.command import StoppedError
from experiments.frame.console import say
from experiments.frame.profile import Tracer
from experiments.frame.start import seconds
from lmseq.config.training import TrainConfig
from lmseq.training.fit import Begun, Trained, train
from lmseq.training.job import Job
from lmseq.training.processes import is_first, share
from lmseq.training.watch import Record


class Signals:
    """Notes SIGTERM and SIGINT for the loop to look at; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}

    def close(self) -> None:
        """Let the signals do what they did before: all is saved, and nobody looks here any more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.number = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)  # which ends the process even inside a program of XLA's


class Lines:
    """Shows a training while it goes: a bar, and a line at the first dispatch and at each evaluation."""

    def __init__(self, train: TrainConfig, description: str, unit: str) -> None:
        self._train, self._description, self._unit = train, description, unit
        self._bar = tqdm(total=train.num_train_steps, disable=not sys.stderr.isatty(), leave=False)
        self._begun: Begun | None = None
        self._said_first, self._best = False, None

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def begin(self, begun: Begun) -> None:
        """Where the training begins."""
        for line in begun.skipped:
            say(line)
        if begun.step:
            say(f"continuing from step {begun.step}")
        say(f"{self._description}, {begun.num_parameters:,} parameters")
        self._begun, self._best = begun, begun.progress.best_valid_loss
        self._bar.initial = self._bar.n = begun.step
        self._bar.refresh()

    def dispatched(self, record: Record) -> None:
        """What was recorded after a dispatch."""
        if not self._said_first:
            self._said_first = True
            say(f"first {record['step'] - self._begun.step} steps after {seconds():.1f} s")
        if "valid_loss" in record:
            self._evaluated(record)
        best = "-" if self._best is None else f"{self._best:.3f}"
        rate = f"{record['tokens_per_second'] / 1e3:,.0f}k tokens/s"
        self._bar.set_postfix_str(f"train {record['train_loss']:.3f}  valid {best}  {rate}", refresh=False)
        self._bar.update(record["step"] - self._bar.n)

    def _evaluated(self, record: Record) -> None:
        loss = record["valid_loss"]
        if loss is not None and (self._best is None or loss < self._best):
            self._best = loss
        valid = "" if loss is None else f"  valid {loss:.3f}"
        spent = self._begun.progress.seconds + seconds()
        say(
            f"step {record['step']}/{self._train.num_train_steps}  train {record['train_loss']:.3f}{valid} "
            f"nats/{self._unit}  {record['tokens_per_second'] / 1e3:,.0f}k tokens/s  {spent:.1f} s"
            + (f"\n    {json.dumps(record['sample'], ensure_ascii=False)}" if "sample" in record else "")
        )


def run(job: Job, description: str, unit: str, profile: range = range(0)) -> Trained:
    """Train from the newest checkpoint to the end, and show it; raises StoppedError when a signal ends it.

    unit: what an element of the stream is called. profile: steps to trace, none where it is empty. Seconds
    count from the start of the process.
    """
    job = job._replace(clock=seconds)
    with (
        closing(Signals()) as signals,
        closing(Lines(job.train, description, unit)) as lines,
        closing(Tracer(profile if is_first() else range(0), job.workdir)) as tracer,
    ):

        def begin(begun: Begun) -> None:
            lines.begin(begun)
            tracer.begin(begun.step)

        trained = train(
            job,
            on_begin=begin,
            on_dispatch=lines.dispatched,
            should_stop=lambda: signals.number is not None,
            around=tracer.around,
        )
    # Also one that came while the last checkpoint was being written: what follows takes long.
    number = next((each for each in share(signals.number) if each), None)  # of whichever process got one
    if number is not None:
        step = trained.records[-1]["step"] if trained.records else job.train.num_train_steps
        say(f"stopped at step {step}, saved; the same command goes on from here")
        raise StoppedError(number)
    return trained

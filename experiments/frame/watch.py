"""What a training run tells while it goes: records, evaluations, and when to save."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.frame.console import say
from experiments.frame.start import seconds
from lmseq import scoring
from lmseq.config.training import TrainConfig
from lmseq.training.checkpoint import Progress
from lmseq.training.loop import Dispatched
from lmseq.training.metrics import MetricsWriter
from lmseq.types import Params, PRNGKey

# Of parameters, a key and the step: figures to record (`valid_loss`, None where there is nothing to validate
# on) and a remark to show, which may be empty.
Evaluate = Callable[[Params, PRNGKey, int], tuple[dict[str, Any], str]]


class Watcher:
    """Takes the dispatches of a run in order, and knows when a checkpoint is due."""

    def __init__(
        self,
        train: TrainConfig,
        workdir: Path,
        unit: str,
        evaluate: Evaluate,
        key: PRNGKey,
        progress: Progress,
        step: int,
    ) -> None:
        self._train, self._unit, self._evaluate, self._key = train, unit, evaluate, key
        self._progress, self._seconds_before = progress, progress.seconds
        self._writer = MetricsWriter(workdir, step)
        self._clock = time.monotonic()
        self._trained = (0, 0.0)  # tokens and seconds, dispatches that had to be compiled left out
        self._step, self._compiled = step, set()
        self.seconds_to_first_step: float | None = None

    def record(self, done: Dispatched) -> str:
        """Note one dispatch, evaluate when it is time, and return a few words for the progress bar."""
        elapsed = time.monotonic() - self._clock
        totals, train = done.metrics.totals, self._train
        num_tokens = int(totals.count.sum())
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = seconds()
            say(f"first {done.step - self._step} steps after {seconds():.1f} s")
        if done.step - self._step in self._compiled:
            self._trained = (self._trained[0] + num_tokens, self._trained[1] + elapsed)
        self._compiled.add(done.step - self._step)  # a program for each number of steps in a dispatch
        self._step = done.step
        train_loss = float(totals.nll.sum(dtype=np.float64) / num_tokens)
        values: dict[str, Any] = {
            **self._train_figures(train_loss),
            "grad_norm": float(done.metrics.grad_norm[-1]),
            "tokens_per_second": num_tokens / elapsed,
        }
        self._progress = self._progress._replace(valid_loss=None)
        if done.step % train.eval_every == 0 or done.step == train.num_train_steps:
            values |= self._judge(done, values)
        self._writer.write(done.step, values)
        best = self._progress.best_valid_loss
        valid = "-" if best is None else f"{best:.3f}"
        return f"train {train_loss:.3f}  valid {valid}  {num_tokens / elapsed / 1e3:,.0f}k tokens/s"

    def _train_figures(self, loss: float) -> dict[str, float]:
        """The training loss; and, of tokens, its perplexity, which a density has not."""
        figures = scoring.loss_figures(loss, 1) if self._unit != "value" else {"loss": loss}
        return {f"train_{name}": value for name, value in figures.items()}

    def _judge(self, done: Dispatched, values: dict[str, Any]) -> dict[str, Any]:
        """Validation figures; keeps the best and the time of the target."""
        progress, train = self._progress, self._train
        figures, remark = self._evaluate(done.training.state.params, self._key, done.step)
        loss, best = figures["valid_loss"], (progress.best_valid_loss, progress.best_step)
        if loss is not None and (best[0] is None or loss < best[0]):
            best = (loss, done.step)
        reached = progress.seconds_to_target_loss
        if reached is None and loss is not None and train.target_loss and loss <= train.target_loss:
            reached = self.seconds()
        self._progress = Progress(loss, *best, progress.seconds, reached)
        valid = "" if loss is None else f"  valid {loss:.3f}"
        say(
            f"step {done.step}/{train.num_train_steps}  train {values['train_loss']:.3f}{valid} "
            f"nats/{self._unit}  {values['tokens_per_second'] / 1e3:,.0f}k tokens/s  {self.seconds():.1f} s"
            + (f"\n    {remark}" if remark else "")
        )
        return figures

    def go_on(self) -> None:
        """Start the clock of the next dispatch: what came between was not training."""
        self._clock = time.monotonic()

    def wants_checkpoint(self, step: int) -> bool:
        """Whether the step just recorded is to be kept: the best so far, a multiple, or the last."""
        train = self._train
        last = step == train.num_train_steps
        return last or step == self._progress.best_step or step % train.checkpoint_every == 0

    def seconds(self) -> float:
        """Seconds spent on the run, over all the processes that worked on it."""
        return self._seconds_before + seconds()

    def progress(self) -> Progress:
        """What goes into a checkpoint beside the arrays."""
        return self._progress._replace(seconds=self.seconds())

    def tokens_per_second(self) -> float | None:
        """Tokens trained on per second of training, evaluations and compilation left out."""
        num_tokens, seconds = self._trained
        return num_tokens / seconds if seconds else None

    def close(self) -> None:
        """Flush the records."""
        self._writer.close()

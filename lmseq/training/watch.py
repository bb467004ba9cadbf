"""What a training records on the way: losses, evaluations, the best of them, and when to save."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lmseq import scoring
from lmseq.config.training import TrainConfig
from lmseq.training.checkpoint import Progress
from lmseq.training.loop import Dispatched
from lmseq.training.state import LoopState
from lmseq.training.validated import mean_weights
from lmseq.types import Params

Record = dict[str, Any]  # `step`, and figures by name: numbers, text, or None where there is nothing
# Of parameters and the step: figures to record. `valid_loss`, where there is one, decides what is best.
Evaluate = Callable[[Params, int], dict[str, Any]]
Clock = Callable[[], float]  # seconds since the run began in this process


def final_params(loop_state: LoopState) -> Params:
    """What a training is judged by and hands over: the weights, or their mean where one is kept."""
    mean = mean_weights(loop_state.state.opt_state)
    return loop_state.state.params if mean is None else mean


class Watcher:
    """Makes a record of each dispatch of a run, in order, and knows when a checkpoint is due.

    has_perplexity: of tokens, whose probabilities have one; a density has none. progress and step: those of
    the checkpoint that the run goes on from.
    """

    def __init__(
        self,
        train: TrainConfig,
        evaluate: Evaluate | None,
        *,
        has_perplexity: bool,
        clock: Clock,
        progress: Progress = Progress(),
        step: int = 0,
    ) -> None:
        self._train, self._evaluate, self._clock = train, evaluate, clock
        self._has_perplexity, self._progress, self._step = has_perplexity, progress, step
        self._seconds_before = progress.seconds
        self._begun = clock()
        self._trained = (0, 0.0)  # tokens and seconds, dispatches that had to be compiled left out
        self._compiled: set[int] = set()
        self.seconds_to_first_step: float | None = None

    def record(self, done: Dispatched) -> Record:
        """The record of one dispatch; evaluates when it is time."""
        elapsed = self._clock() - self._begun
        totals, train = done.metrics.totals, self._train
        num_tokens, num_steps = int(totals.count.sum()), done.step - self._step
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = self._clock()
        if num_steps in self._compiled:
            self._trained = (self._trained[0] + num_tokens, self._trained[1] + elapsed)
        self._compiled.add(num_steps)  # a program for each number of steps in a dispatch
        self._step = done.step
        record: Record = {
            "step": done.step,
            **self._train_figures(float(totals.nll.sum(dtype=np.float64) / num_tokens)),
            "grad_norm": float(done.metrics.grad_norm[-1]),
            "tokens_per_second": num_tokens / elapsed,
        }
        self._progress = self._progress._replace(valid_loss=None)
        due = done.step % train.eval_every == 0 or done.step == train.num_train_steps
        if self._evaluate is not None and due:
            state = done.loop_state.state
            figures = self._evaluate(final_params(done.loop_state), done.step)
            self._note(figures.get("valid_loss"))
            record |= figures
            if mean_weights(state.opt_state) is not None:
                record["raw_valid_loss"] = self._evaluate(state.params, done.step).get("valid_loss")
        return record

    def _train_figures(self, loss: float) -> dict[str, float]:
        figures = scoring.loss_figures(loss, 1) if self._has_perplexity else {"loss": loss}
        return {f"train_{name}": value for name, value in figures.items()}

    def _note(self, loss: float | None) -> None:
        """Keep the best validation loss, and the time at which the target was reached."""
        progress, target = self._progress, self._train.target_loss
        best = (progress.best_valid_loss, progress.best_step)
        if loss is not None and (best[0] is None or loss < best[0]):
            best = (loss, self._step)
        reached = progress.seconds_to_target_loss
        if reached is None and loss is not None and target and loss <= target:
            reached = self._seconds()
        self._progress = Progress(loss, *best, progress.seconds, reached)

    def go_on(self) -> None:
        """Start the clock of the next dispatch: what came between was not training."""
        self._begun = self._clock()

    def wants_checkpoint(self) -> bool:
        """Whether the step just recorded is to be kept: the best so far, a multiple, or the last."""
        train, step = self._train, self._step
        last = step == train.num_train_steps
        return last or step == self._progress.best_step or step % train.checkpoint_every == 0

    def progress(self) -> Progress:
        """What goes into a checkpoint beside the arrays."""
        return self._progress._replace(seconds=self._seconds())

    def tokens_per_second(self) -> float | None:
        """Tokens trained on per second of training, evaluations and compilation left out."""
        num_tokens, seconds = self._trained
        return num_tokens / seconds if seconds else None

    def _seconds(self) -> float:
        """Seconds spent on the run, over all the processes that worked on it."""
        return self._seconds_before + self._clock()

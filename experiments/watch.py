"""What a training run tells while it goes: records, evaluations, samples, and when to save."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import app
from experiments.texts import Texts
from lmseq import evaluation, generation, likelihood
from lmseq.config import LanguageModelConfig
from lmseq.contract import Model
from lmseq.sampling import Decoding
from lmseq.training.checkpoint import Progress
from lmseq.training.loop import Dispatched
from lmseq.training.metrics import MetricsWriter
from lmseq.types import Params, PRNGKey

SAMPLE = Decoding(temperature=0.8)


class Job(NamedTuple):
    """What a run is about, from its first step to its last."""

    config: LanguageModelConfig
    workdir: Path
    texts: Texts
    model: Model


def split_figures(job: Job, params: Params, split: str) -> dict[str, float | None]:
    """Loss, perplexity and bits per character of a split, scored as one stream; None of an empty one."""
    ids = job.texts.ids[split]
    if not ids.size:
        return {f"{split}_{name}": None for name in ("loss", "perplexity", "bits_per_char")}
    log_probs = evaluation.score_stream(job.model, params, ids)
    nll = -float(log_probs.sum(dtype=np.float64))
    figures = likelihood.loss_figures(nll, ids.size, job.texts.num_chars(split))
    return {f"{split}_{name}": value for name, value in figures.items()}


def sample_text(job: Job, params: Params, key: PRNGKey, num_tokens: int) -> str:
    """A continuation of the first token of the validation text, that token included."""
    prompt = job.texts.ids["valid"][:1]
    tokens = generation.generate(key, job.model, params, prompt, num_tokens=num_tokens, decoding=SAMPLE)
    return job.texts.vocab.decode(np.concatenate([prompt, np.asarray(tokens)]))


class Watcher:
    """Takes the dispatches of a run in order, and knows when a checkpoint is due."""

    def __init__(self, job: Job, sample_key: PRNGKey, progress: Progress, step: int) -> None:
        self._job, self._sample_key, self._progress = job, sample_key, progress
        self._seconds_before = progress.seconds
        self._writer = MetricsWriter(job.workdir, step)
        self._clock = time.monotonic()
        self._trained = (0, 0.0)  # tokens and seconds, the first dispatch (compilation) left out
        self.seconds_to_first_step: float | None = None

    def record(self, done: Dispatched) -> str:
        """Note one dispatch, evaluate when it is time, and return a few words for the progress bar."""
        elapsed = time.monotonic() - self._clock
        totals, train = done.metrics.totals, self._job.config.train
        num_tokens = int(totals.count.sum())
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = app.seconds()
            app.say(f"first {train.steps_per_dispatch} steps after {app.seconds():.1f} s")
        else:
            self._trained = (self._trained[0] + num_tokens, self._trained[1] + elapsed)
        train_loss = float(totals.nll.sum(dtype=np.float64) / num_tokens)
        values: dict[str, Any] = {
            **{f"train_{k}": v for k, v in likelihood.loss_figures(train_loss, 1).items()},
            "grad_norm": float(done.metrics.grad_norm[-1]),
            "tokens_per_second": num_tokens / elapsed,
        }
        self._progress = self._progress._replace(valid_loss=None)
        if done.step % train.eval_every == 0 or done.step == train.num_train_steps:
            values |= self._evaluate(done, values)
        self._writer.write(done.step, values)
        self._clock = time.monotonic()
        best = self._progress.best_valid_loss
        valid = "-" if best is None else f"{best:.3f}"
        return f"train {train_loss:.3f}  valid {valid}  {num_tokens / elapsed / 1e3:,.0f}k tokens/s"

    def _evaluate(self, done: Dispatched, values: dict[str, Any]) -> dict[str, Any]:
        """Validation figures and a sample; keeps the best and the time of the target."""
        config, params, progress = self._job.config, done.training.state.params, self._progress
        figures = split_figures(self._job, params, "valid")
        loss, best = figures["valid_loss"], (progress.best_valid_loss, progress.best_step)
        if best[0] is None or loss < best[0]:
            best = (loss, done.step)
        reached = progress.seconds_to_target_loss
        if reached is None and loss <= config.train.target_loss:
            reached = self.seconds()
        self._progress = Progress(loss, *best, progress.seconds, reached)
        sample = sample_text(self._job, params, jax.random.fold_in(self._sample_key, done.step), 160)
        app.say(
            f"step {done.step}/{config.train.num_train_steps}  train {values['train_loss']:.3f}  "
            f"valid {loss:.3f} nats/{config.data.level}  "
            f"{values['tokens_per_second'] / 1e3:,.0f}k tokens/s  {self.seconds():.1f} s\n"
            f"    {json.dumps(sample, ensure_ascii=False)}"
        )
        return {**figures, "sample": sample}

    def wants_checkpoint(self, step: int) -> bool:
        """Whether the step just recorded is to be kept: the best so far, a multiple, or the last."""
        train = self._job.config.train
        last = step == train.num_train_steps
        return last or step == self._progress.best_step or step % train.checkpoint_every == 0

    def seconds(self) -> float:
        """Seconds spent on the run, over all the processes that worked on it."""
        return self._seconds_before + app.seconds()

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

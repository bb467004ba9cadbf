"""What a training run tells while it goes and when it ends: records, evaluations, samples, figures."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import app
from lmseq import evaluation, generation, likelihood, plotting, prediction
from lmseq.config import LanguageModelConfig
from lmseq.contract import Model
from lmseq.data.text import Corpus, Vocab
from lmseq.sampling import Decoding
from lmseq.training.checkpoint import Progress, digest
from lmseq.training.loop import Dispatched
from lmseq.training.metrics import MetricsWriter, read_records
from lmseq.types import Params, PRNGKey

HORIZONS = (1, 4, 16, 64)


class Watcher:
    """Takes the dispatches of a run in order, and knows when a checkpoint is due."""

    def __init__(
        self,
        config: LanguageModelConfig,
        workdir: Path,
        vocab: Vocab,
        corpus: Corpus,
        ids: dict[str, np.ndarray],
        model: Model,
        sample_key: PRNGKey,
        progress: Progress,
    ) -> None:
        self._config, self._workdir, self._vocab, self._corpus = config, workdir, vocab, corpus
        self._ids, self._model, self._sample_key, self._progress = ids, model, sample_key, progress
        self._before = progress.seconds
        self.step = 0
        self._tokens = 0
        self._seconds = 0.0
        self._first_step: float | None = None
        self._improved = False

    def start(self, step: int) -> None:
        """Open the records at the step that the run begins or goes on from."""
        self.step = step
        self._writer = MetricsWriter(self._workdir, step)
        self._clock = time.monotonic()

    def record(self, done: Dispatched) -> str:
        """Note one dispatch, evaluate when it is time, and return a few words for the progress bar."""
        elapsed = time.monotonic() - self._clock
        totals = done.metrics.totals
        num_tokens = int(totals.count.sum())
        if self._first_step is None:
            self._first_step = app.seconds()
            app.say(f"first step after {self._first_step:.1f} s")
        else:
            self._tokens, self._seconds = self._tokens + num_tokens, self._seconds + elapsed
        train_loss = float(totals.nll.sum(dtype=np.float64) / num_tokens)
        values: dict[str, Any] = {
            **{f"train_{k}": v for k, v in likelihood.loss_figures(train_loss, 1).items()},
            "grad_norm": float(done.metrics.grad_norm[-1]),
            "tokens_per_second": num_tokens / elapsed,
        }
        self.step, self._improved = done.step, False
        self._progress = self._progress._replace(valid_loss=None)
        train = self._config.train
        if done.step % train.eval_every == 0 or done.step == train.num_train_steps:
            values |= self._evaluate(done, values)
        self._writer.write(done.step, values)
        self._clock = time.monotonic()
        return f"train {train_loss:.3f}, valid {self._last_valid()}, {num_tokens / elapsed:,.0f} tokens/s"

    def _last_valid(self) -> str:
        best = self._progress.best_valid_loss
        return "-" if best is None else f"{best:.3f}"

    def _evaluate(self, done: Dispatched, values: dict[str, Any]) -> dict[str, Any]:
        """Validation figures and a sample; keeps the best and the time of the target."""
        params = done.training.state.params
        figures = self._figures(params, "valid")
        loss, progress = figures["valid_loss"], self._progress
        self._improved = progress.best_valid_loss is None or loss < progress.best_valid_loss
        best = (loss, done.step) if self._improved else (progress.best_valid_loss, progress.best_step)
        reached = progress.seconds_to_target_loss
        if reached is None and loss <= self._config.train.target_loss:
            reached = self._before + app.seconds()
        self._progress = Progress(loss, *best, progress.seconds, reached)
        sample = self._sample(params, done.step)
        app.say(
            f"step {done.step}/{self._config.train.num_train_steps}  train {values['train_loss']:.3f}  "
            f"valid {loss:.3f} nats/{self._config.data.level}  "
            f"{values['tokens_per_second'] / 1e3:,.0f}k tokens/s  "
            f"{self._before + app.seconds():.1f} s\n    {json.dumps(sample, ensure_ascii=False)}"
        )
        return {**figures, "sample": sample}

    def _figures(self, params: Params, split: str) -> dict[str, float]:
        """Loss, perplexity and bits per character of a split, scored as one stream."""
        log_probs = evaluation.score_stream(self._model, params, self._ids[split])
        nll = -float(log_probs.sum(dtype=np.float64))
        figures = likelihood.loss_figures(nll, log_probs.size, len(getattr(self._corpus, split)))
        return {f"{split}_{name}": value for name, value in figures.items()}

    def _sample(self, params: Params, step: int) -> str:
        key = jax.random.fold_in(self._sample_key, step)
        prompt = self._ids["valid"][:1]
        tokens = generation.generate(
            key, self._model, params, prompt, num_tokens=160, decoding=Decoding(temperature=0.8)
        )
        return self._vocab.decode(np.concatenate([prompt, np.asarray(tokens)]))

    def wants_checkpoint(self) -> bool:
        """Whether the step just recorded is to be kept."""
        train = self._config.train
        return self._improved or self.step % train.checkpoint_every == 0 or self.step == train.num_train_steps

    def progress(self) -> Progress:
        """What goes into a checkpoint of this step beside the arrays."""
        return self._progress._replace(seconds=self._before + app.seconds())

    def conclude(self, params: Params, num_parameters: int, key: PRNGKey) -> None:
        """Final figures of the final parameters, the table, the pictures and the summary."""
        self._writer.close()
        config, valid = self._config, self._ids["valid"]
        unigram = evaluation.unigram_log_probs(self._ids["train"], len(self._vocab))
        unigram_loss = float(-unigram[valid].mean())
        figures = self._figures(params, "valid")
        test = {f"test_{name}": None for name in ("loss", "perplexity", "bits_per_char")}
        figures |= self._figures(params, "test") if self._ids["test"].size else test
        app.say(f"model        nats/{config.data.level}")
        for name, loss in {
            "uniform": np.log(len(self._vocab)),
            "unigram": unigram_loss,
            config.model.model: figures["valid_loss"],
        }.items():
            app.say(f"{name:<12} {loss:.3f}")
        horizon = self._horizon(params, key)
        title = f"{self._corpus.name}, {config.model.model} {config.model.hidden_size}"
        records = read_records(self._workdir / "metrics.jsonl")
        curve = plotting.learning_curve(records, unigram_loss, title)
        plotting.save_figure(curve, self._workdir / "loss.png")
        if horizon is not None:
            figure = plotting.horizon_curve(horizon, unigram_loss, title)
            plotting.save_figure(figure, self._workdir / "horizon.png")
        app.say(f"{self._workdir}: loss.png  horizon.png  metrics.jsonl  summary.json  checkpoints/")
        app.say(f'next:  python -m experiments.score_text --run={self._workdir} --text="..."')
        app.say(f'       python -m experiments.sample_text --run={self._workdir} --prompt="..."')
        summary = {
            "corpus": config.data.corpus,
            "level": config.data.level,
            "model": config.model.model,
            "num_parameters": num_parameters,
            "vocab_size": len(self._vocab),
            "num_train_steps": config.train.num_train_steps,
            **figures,
            "best_valid_loss": self._progress.best_valid_loss,
            "best_step": self._progress.best_step,
            **{
                f"loss_at_{k}": None if horizon is None or k > len(horizon) else float(horizon[k - 1])
                for k in HORIZONS
            },
            "unigram_loss": unigram_loss,
            "horizon_samples": config.train.horizon_samples,
            "params_digest": digest(params),
            "tokens_per_second": self._tokens / self._seconds if self._seconds else None,
            "seconds_to_first_step": self._first_step,
            "seconds_to_target_loss": self._progress.seconds_to_target_loss,
            "wall_seconds": self._before + app.seconds(),
        }
        app.finish(self._workdir, summary)

    def _horizon(self, params: Params, key: PRNGKey) -> np.ndarray | None:
        """The k-step-ahead cross-entropy on the validation text, as far as the text allows."""
        valid, train = self._ids["valid"], self._config.train
        longest = min(max(HORIZONS), valid.size // 2)
        if longest < 1:
            return None
        origins = min(train.horizon_origins, valid.size - longest)
        losses = prediction.k_step_cross_entropy(
            key,
            self._model,
            params,
            jnp.asarray(valid),
            max_horizon=longest,
            num_origins=origins,
            num_samples=train.horizon_samples,
        )
        shown = "   ".join(f"{k}: {losses[k - 1]:.2f}" for k in HORIZONS if k <= longest)
        app.say(f"k steps ahead:  {shown}   ({origins} origins, {train.horizon_samples} samples)")
        return losses

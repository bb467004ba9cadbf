"""How a training run ends: final figures, a table with the obvious models beside, pictures, the summary."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import app
from experiments.watch import SAMPLE, Job, Watcher, sample_text, split_figures
from lmseq import evaluation, likelihood, plotting, prediction
from lmseq.models.interface import count_parameters
from lmseq.training.checkpoint import digest
from lmseq.training.metrics import read_records
from lmseq.types import Params, PRNGKey

HORIZONS = (1, 4, 16, 64)


def conclude(job: Job, params: Params, watcher: Watcher, key: PRNGKey) -> dict[str, Any]:
    """Evaluate the final parameters, print, draw, and return the summary."""
    trained = watcher.seconds()
    unigram = unigram_figures(job)
    figures = split_figures(job, params, "valid") | split_figures(job, params, "test")
    _print_table(job, params, unigram, figures, trained)
    horizon_key, sample_key = jax.random.split(key)
    horizon = k_step_log_probs(job, params, unigram["loss"], horizon_key)
    app.say(f"sample (temperature {SAMPLE.temperature}): {sample_text(job, params, sample_key, 400)}")
    _draw(job, unigram["loss"], horizon)
    progress, config = watcher.progress(), job.config
    return {
        "corpus": config.data.corpus,
        "level": config.data.level,
        "model": config.model.model,
        "num_parameters": count_parameters(params),
        "vocab_size": len(job.texts.vocab),
        "num_train_steps": config.train.num_train_steps,
        **figures,
        "best_valid_loss": progress.best_valid_loss,
        "best_step": progress.best_step,
        **{f"loss_at_{k}": _loss_at(horizon, k) for k in HORIZONS},
        "horizon_origins": config.train.horizon_origins,
        "horizon_samples": config.train.horizon_samples,
        "unigram_loss": unigram["loss"],
        "params_digest": digest(params),
        "tokens_per_second": watcher.tokens_per_second(),
        "seconds_to_first_step": watcher.seconds_to_first_step,
        "seconds_to_target_loss": progress.seconds_to_target_loss,
        "wall_seconds": watcher.seconds(),
    }


def unigram_figures(job: Job) -> dict[str, float]:
    """Loss and bits per character of the validation text under the training text's unigram model."""
    texts = job.texts
    log_probs = evaluation.unigram_log_probs(texts.ids["train"], len(texts.vocab))[texts.ids["valid"]]
    return likelihood.loss_figures(-float(log_probs.sum()), log_probs.size, texts.num_chars("valid"))


def _print_table(
    job: Job, params: Params, unigram: dict[str, float], figures: dict[str, Any], seconds: float
) -> None:
    """The model on the validation text, between what knows nothing and what counts symbols."""
    vocab_size, valid = len(job.texts.vocab), job.texts.ids["valid"]
    uniform = likelihood.loss_figures(
        valid.size * float(np.log(vocab_size)), valid.size, job.texts.num_chars("valid")
    )
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    rows = [
        ("uniform", uniform["loss"], uniform["bits_per_char"], 0, 0.0),
        ("unigram", unigram["loss"], unigram["bits_per_char"], 4 * vocab_size, 0.0),
        (job.config.model.model, figures["valid_loss"], figures["valid_bits_per_char"], num_bytes, seconds),
    ]
    app.say(f"{'validation':<14}{'nats/' + job.config.data.level:>10}  bits/char       bytes  seconds")
    for name, loss, bits, size, spent in rows:
        app.say(f"{name:<14}{loss:>10.3f}{bits:>11.3f}{size:>12,}{spent:>9.1f}")


def k_step_log_probs(job: Job, params: Params, unigram_loss: float, key: PRNGKey) -> np.ndarray:
    """By origin and k = 1 ..., on the validation text, as far ahead as it allows; (0, 0) of one token."""
    valid, train = job.texts.ids["valid"], job.config.train
    longest = min(max(HORIZONS), valid.size // 2)
    if not longest:
        return np.zeros((0, 0))
    log_probs = prediction.k_step_log_probs(
        key,
        job.model,
        params,
        jnp.asarray(valid),
        max_horizon=longest,
        num_origins=min(train.horizon_origins, valid.size - longest),
        num_samples=train.horizon_samples,
    )
    shown = "   ".join(f"{k}: {_loss_at(log_probs, k):.2f}" for k in HORIZONS if k <= longest)
    app.say(
        f"k steps ahead:  {shown}   (unigram {unigram_loss:.2f}; {train.horizon_samples} samples an origin)"
    )
    return log_probs


def _loss_at(log_probs: np.ndarray, k: int) -> float | None:
    return -float(log_probs[:, k - 1].mean()) if k <= log_probs.shape[1] else None


def _draw(job: Job, unigram_loss: float, horizon: np.ndarray) -> None:
    """loss.png and, where there is one, horizon.png."""
    config, workdir = job.config, job.workdir
    title = f"{job.texts.corpus.name}: {config.model.model}, {config.model.hidden_size} units"
    records = read_records(workdir / "metrics.jsonl")
    names = ["loss.png"]
    plotting.save_figure(plotting.learning_curve(records, unigram_loss, title), workdir / "loss.png")
    if horizon.size:
        names.append("horizon.png")
        plotting.save_figure(plotting.horizon_curve(horizon, unigram_loss, title), workdir / "horizon.png")
    app.say(f"{workdir}: {'  '.join(names)}  metrics.jsonl  summary.json  checkpoints/  tensorboard/")
    prompt = job.texts.corpus.valid.split(maxsplit=1)[0][:20] if job.texts.corpus.valid.split() else ""
    app.say(f'next:  python -m experiments.score_text --run={workdir} --text="{prompt}"')
    app.say(f'       python -m experiments.sample_text --run={workdir} --prompt="{prompt}" --num_samples=4')

"""How a training run ends: final figures, a table with the obvious models beside, pictures, the summary."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import start
from experiments.frame.console import say
from experiments.text import pages
from experiments.text.evaluate import (
    FIGURES,
    SAMPLE,
    CountsBeside,
    PreparedText,
    figures_of,
    sample_text,
    scored_part,
    split_figures,
)
from experiments.text.suggest import suggest
from lmseq import plotting, rollout, scoring
from lmseq.config.language_model import WINDOWED, check
from lmseq.models.interface import count_parameters
from lmseq.models.ngram import Counts, fit_counts
from lmseq.ngram import smoothing
from lmseq.training.checkpoint import digest
from lmseq.training.fit import Trained
from lmseq.training.metrics import read_records
from lmseq.training.state import split_key
from lmseq.types import Params, PRNGKey

HORIZONS = (1, 4, 16, 64)
MOST_ORDER = 8  # of the count models tried


def fit_best(prepared: PreparedText) -> CountsBeside:
    """The best count model of the training text's latest tokens."""
    start, most = time.monotonic(), prepared.config.report.count_tokens
    return CountsBeside(fit_counts(prepared.texts, MOST_ORDER, most_tokens=most), time.monotonic() - start)


def conclude(
    prepared: PreparedText, workdir: Path, trained: Trained, counted: CountsBeside | None = None
) -> dict[str, Any]:
    """Score the final parameters, print, draw, and return the summary. counted: what `fit_best` gave."""
    params, progress, config = trained.params, trained.progress, prepared.config
    horizon_key, sample_key = jax.random.split(split_key(config.train.seed).after)
    with ThreadPoolExecutor(1) as beside:  # neither keeps all cores busy
        ahead = beside.submit(k_step_log_probs, prepared, params, horizon_key)
        unigram, (counts, fitted) = unigram_figures(prepared), best_counts(prepared, counted)
        losses = valid_figures(prepared, trained) | split_figures(prepared, params, "test")
        _print_table(prepared, params, unigram, counts, losses, progress.seconds)
        horizon = ahead.result()
    _print_horizon(prepared, horizon, unigram["loss"])
    say(f"sample (temperature {SAMPLE.temperature}): {sample_text(prepared, params, sample_key, 400)}")
    _draw(prepared, workdir, unigram["loss"], horizon)
    summary = {
        **fixed_figures(prepared, params, losses, unigram["loss"], horizon),
        "best_valid_loss": progress.best_valid_loss,
        "best_step": progress.best_step,
        "horizon_origins": config.report.horizon_origins,
        "horizon_samples": config.report.horizon_samples,
        "count_order": counts["order"],
        "count_loss": counts["loss"],
        **({"count_tokens": counts["tokens"]} if "tokens" in counts else {}),
        "tokens_per_second": trained.tokens_per_second,
        "seconds_to_first_step": trained.seconds_to_first_step,
        "seconds_to_target_loss": progress.seconds_to_target_loss,
    }
    _write_page(prepared, workdir, params, fitted, summary, horizon)
    suggest(workdir, prepared.texts.vocab, prepared.texts.first_words())
    return summary | {"wall_seconds": trained.seconds_before + start.seconds()}


def _write_page(
    prepared: PreparedText,
    workdir: Path,
    params: Params,
    counts: Counts,
    summary: dict[str, Any],
    horizon: np.ndarray,
) -> None:
    """page.html, on which counts read the validation text beside the model."""
    config, texts, model = prepared[:3]
    name, vocab = config.model.model, texts.vocab
    readers = [
        pages.neural_reader(name, summary["valid_loss"], model, params, len(vocab)),
        pages.reader_beside(vocab, counts, summary["count_loss"]),
    ]
    shown = pages.Shown("train_lm", config, texts.facts(), summary, vocab, readers, horizon, check)
    pages.write(workdir, shown, texts.ids["valid"])


def figures(prepared: PreparedText, params: Params) -> dict[str, Any]:
    """What of the summary the parameters and the seed fix, without counts and pictures."""
    unigram, losses = unigram_figures(prepared)["loss"], split_losses(prepared, params)
    horizon_key, _ = jax.random.split(split_key(prepared.config.train.seed).after)
    horizon = k_step_log_probs(prepared, params, horizon_key)
    _print_horizon(prepared, horizon, unigram)
    return fixed_figures(prepared, params, losses, unigram, horizon)


def valid_figures(prepared: PreparedText, trained: Trained) -> dict[str, float | None]:
    """Of the validation text under the final parameters: those of the last evaluation, which scored them.

    Scored anew where there was none, or where a record has lost what JSON does not write: infinity.
    """
    last = trained.records[-1] if trained.records else {}
    found = {name: value for name, value in last.items() if name.startswith("valid_")}
    is_whole = all(found.get(f"valid_{name}") is not None for name in FIGURES)
    if is_whole and last.get("step") == prepared.config.train.num_train_steps:
        return found
    return split_figures(prepared, trained.params, "valid")


def split_losses(prepared: PreparedText, params: Params) -> dict[str, float | None]:
    """Loss, perplexity and bits per character of the validation and the test text."""
    return split_figures(prepared, params, "valid") | split_figures(prepared, params, "test")


def fixed_figures(
    prepared: PreparedText,
    params: Params,
    losses: dict[str, float | None],
    unigram_loss: float,
    horizon: np.ndarray,
) -> dict[str, Any]:
    """The model, its losses and its horizon, as entries of a summary."""
    config = prepared.config
    return {
        "corpus": config.data.corpus,
        "level": config.data.level,
        "model": config.model.model,
        "num_parameters": count_parameters(params),
        "vocab_size": len(prepared.texts.vocab),
        "num_train_steps": config.train.num_train_steps,
        **({"num_epochs": config.course.num_epochs} if config.course.num_epochs else {}),
        **losses,
        **{f"loss_at_{k}": _loss_at(horizon, k) for k in HORIZONS},
        "unigram_loss": unigram_loss,
        "params_digest": digest(params),
    }


def unigram_figures(prepared: PreparedText) -> dict[str, float]:
    """Loss and bits per character of the validation text under the training text's unigram model."""
    texts, part = prepared.texts, scored_part(prepared, "valid")
    log_probs = smoothing.unigram_log_probs(texts.ids["train"], len(texts.vocab))[part.tokens]
    return figures_of(prepared, "valid", part, log_probs)


def best_counts(prepared: PreparedText, counted: CountsBeside | None = None) -> tuple[dict[str, Any], Counts]:
    """Figures of the best count model of the training text's latest tokens, on what the model is scored on.

    The tokens that it is made of are named where they are not all. Beside them stands the model itself.
    """
    best, seconds = counted or fit_best(prepared)
    part, most = scored_part(prepared, "valid"), prepared.config.report.count_tokens
    # Scored under the contract, as everything else: the same tokens, no end that has to be predicted.
    log_probs = scoring.score_stream(best.model, best.params, part.tokens)
    figures = figures_of(prepared, "valid", part, log_probs)
    left_out = {"tokens": most} if 0 < most < prepared.texts.ids["train"].size else {}
    found = {**figures, "num_bytes": best.num_bytes, "order": best.order, "seconds": seconds, **left_out}
    return found, best


def _print_table(
    prepared: PreparedText,
    params: Params,
    unigram: dict[str, float],
    counts: dict[str, Any],
    losses: dict[str, Any],
    seconds: float,
) -> None:
    """The model on the validation text, beside what knows nothing and what counts."""
    vocab_size, valid = len(prepared.texts.vocab), prepared.texts.ids["valid"]
    uniform = scoring.loss_figures(
        valid.size * float(np.log(vocab_size)), valid.size, prepared.texts.num_chars("valid")
    )
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    part = f" of the latest {counts['tokens']:,}" if "tokens" in counts else ""
    rows = [
        ("uniform", uniform["loss"], uniform["bits_per_char"], 0, 0.0),
        ("unigram", unigram["loss"], unigram["bits_per_char"], 4 * vocab_size, 0.0),
        (
            f"{counts['order']}-gram{part}",
            counts["loss"],
            counts["bits_per_char"],
            counts["num_bytes"],
            counts["seconds"],
        ),
        (
            prepared.config.model.model,
            losses["valid_loss"],
            losses["valid_bits_per_char"],
            num_bytes,
            seconds,
        ),
    ]
    width = max(14, *(len(row[0]) + 2 for row in rows))
    say(f"{'validation':<{width}}{'nats/' + prepared.config.data.level:>10}  bits/char       bytes  seconds")
    for name, loss, bits, size, spent in rows:
        say(f"{name:<{width}}{loss:>10.3f}{bits:>11.3f}{size:>12,}{spent:>9.1f}")
    if counts["loss"] < losses["valid_loss"]:
        model = prepared.config.model
        could_see = model.model not in WINDOWED and not model.ngram_order
        say(
            f"the {counts['order']}-gram predicts this text better than the {model.model}: train longer "
            f"(--num_train_steps), {'show it n-grams (--ngram_order), ' * could_see}or mix both "
            "(experiments.train_ngram, experiments.mix_models)"
        )
    if "valid_tokens_scored" in losses:
        say(
            f"of a sample of {losses['valid_tokens_scored']:,} of {valid.size:,} tokens, standard error "
            f"{losses['valid_loss_standard_error'] or math.nan:.4f} (all of them: --score_tokens=0)"
        )


def k_step_log_probs(prepared: PreparedText, params: Params, key: PRNGKey) -> np.ndarray:
    """By origin and k = 1 ..., on the validation text, as far ahead as it allows; (0, 0) of one token.

    Of a text with more tokens than are scored, on its beginning.
    """
    settings = prepared.config.report
    valid = prepared.texts.ids["valid"][: settings.score_tokens or None]
    longest = min(max(HORIZONS), valid.size // 2)
    if not longest:
        return np.zeros((0, 0))
    return rollout.k_step_log_probs(
        key,
        prepared.model,
        params,
        jnp.asarray(valid),
        max_horizon=longest,
        num_origins=min(settings.horizon_origins, valid.size - longest),
        num_samples=settings.horizon_samples,
    )


def _print_horizon(prepared: PreparedText, log_probs: np.ndarray, unigram_loss: float) -> None:
    """The losses some steps ahead, where the text is long enough."""
    if not log_probs.size:
        return
    shown = "   ".join(f"{k}: {_loss_at(log_probs, k):.2f}" for k in HORIZONS if k <= log_probs.shape[1])
    number = prepared.config.report.horizon_samples
    say(f"k steps ahead:  {shown}   (unigram {unigram_loss:.2f}; {number} samples an origin)")


def _loss_at(log_probs: np.ndarray, k: int) -> float | None:
    return -float(log_probs[:, k - 1].mean()) if k <= log_probs.shape[1] else None


def _draw(prepared: PreparedText, workdir: Path, unigram_loss: float, horizon: np.ndarray) -> None:
    """loss.png and, where there is one, horizon.png."""
    config = prepared.config
    title = f"{prepared.texts.corpus.name}: {config.model.model}, {config.model.hidden_size} units"
    records = read_records(workdir / "metrics.jsonl")
    names = ["loss.png"]
    plotting.save_figure(plotting.learning_curve(records, unigram_loss, title), workdir / "loss.png")
    if horizon.size:
        names.append("horizon.png")
        plotting.save_figure(plotting.horizon_curve(horizon, unigram_loss, title), workdir / "horizon.png")
    say(f"{workdir}: page.html  {'  '.join(names)}  metrics.jsonl  summary.json  checkpoints/  tensorboard/")

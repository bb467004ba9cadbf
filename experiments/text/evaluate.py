"""How a language model is judged while it is trained, and after: losses of the splits, a sample."""

import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments.text.beginning import Beginning
from lmseq import generation, runs, scoring
from lmseq.config.language_model import LanguageModelConfig, ModelConfig
from lmseq.config.mixers import layer_names
from lmseq.contract import Model
from lmseq.data.texts import Texts
from lmseq.models.ngram import Counts
from lmseq.recurrence.unrolled import Backend
from lmseq.runs import Run
from lmseq.sampling import Decoding
from lmseq.training.memory import physical_memory
from lmseq.training.state import split_key
from lmseq.types import Params, PRNGKey

SAMPLE = Decoding(temperature=0.8)
FIGURES = ("loss", "perplexity", "bits_per_char")  # of every split


class PreparedText(NamedTuple):
    """The config, the texts and the model of a run, and what it begins with where that is another run."""

    config: LanguageModelConfig
    texts: Texts
    model: Model
    beginning: Beginning | None = None


class CountsBeside(NamedTuple):
    """A count model that a trained one is compared with, and its seconds, beside the training."""

    counts: Counts
    seconds: float


def split_figures(prepared: PreparedText, params: Params, split: str) -> dict[str, float | None]:
    """Loss, perplexity and bits per character of a split, scored as one stream; None of an empty one.

    Of a split with more tokens than are scored, those of a sample, with its tokens and standard error.
    """
    part = scored_part(prepared, split)
    if not part.num_tokens:
        return {f"{split}_{name}": None for name in FIGURES}
    log_probs = scoring.score_stream(prepared.model, params, part.tokens)
    figures = figures_of(prepared, split, part, log_probs)
    if not part.is_whole:
        figures["loss_standard_error"] = scoring.standard_error(part, log_probs)
        figures["tokens_scored"] = int(part.counted.sum())
    return {f"{split}_{name}": value for name, value in figures.items()}


def scored_part(prepared: PreparedText, split: str) -> scoring.Excerpt:
    """What of a split is scored."""
    return scoring.excerpt(prepared.texts.ids[split], prepared.config.report.score_tokens)


def figures_of(
    prepared: PreparedText, split: str, part: scoring.Excerpt, log_probs: np.ndarray
) -> dict[str, float]:
    """Loss, perplexity and bits per character of a split, from the log-probabilities of its scored part."""
    counted = log_probs[part.counted]
    nll = -float(counted.sum(dtype=np.float64)) * (part.num_tokens / counted.size)
    return scoring.loss_figures(nll, part.num_tokens, prepared.texts.num_chars(split))


def sample_text(prepared: PreparedText, params: Params, key: PRNGKey, num_tokens: int) -> str:
    """A continuation, without `<unk>`, of the first token of the validation text, that token included."""
    prompt, vocab = prepared.texts.ids["valid"][:1], prepared.texts.vocab
    tokens = generation.generate(
        key,
        prepared.model,
        params,
        prompt,
        num_tokens=num_tokens,
        decoding=SAMPLE,
        never=vocab.unknown_ids,
    )
    return vocab.decode(np.concatenate([prompt, np.asarray(tokens)]))


def evaluate(prepared: PreparedText, params: Params, step: int) -> dict[str, Any]:
    """Validation figures and a sample."""
    key = split_key(prepared.config.train.seed).sample
    sample = sample_text(prepared, params, jax.random.fold_in(key, step), 160)
    return {**split_figures(prepared, params, "valid"), "sample": sample}


def describe(model: ModelConfig) -> str:
    """The model in a few words."""
    number = len(layer_names(model, model.model, model.num_layers))
    layers, name = f"{number} layer" + "s" * (number > 1), model.layers or model.model
    return name if name == "linear" else f"{name}, {layers}, {model.hidden_size} units"


def load_run(path: str, which: str, backend: Backend = "auto") -> Run:
    """`runs.load_run`, with a bar for long ARPA files and no more than the machine's memory."""
    with tqdm(unit=" n-grams", disable=not sys.stderr.isatty(), leave=False) as bar:
        told = {"memory": physical_memory(), "begin": bar.reset, "progress": bar.update}
        return runs.load_run(path, which, **told, backend=backend)

"""Samples of a source whose entropies are known, and what models that are trained on them lose."""

from collections.abc import Sequence

import jax
import numpy as np

from experiments.frame.progress import steps_bar
from lmseq import generation, scoring
from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.sources import HiddenMarkov, MarkovChain
from lmseq.models.build import build_model
from lmseq.models.ngram import put_tables
from lmseq.models.sources import put_source
from lmseq.ngram.counts import FIRST_WORD_ID, count_ngrams, mark_sentences
from lmseq.ngram.smoothing import modified_kneser_ney
from lmseq.training.fit import fit_members
from lmseq.training.job import Batches
from lmseq.types import Params

BATCH_SIZE, NUM_STEPS = 64, 64
SKIPPED = 32  # tokens at the beginning of a test, which have less before them than a window holds


def samples(source: MarkovChain | HiddenMarkov, seeds: Sequence[int], num_tokens: int) -> list[np.ndarray]:
    """A stream for each seed, int32 (T,), drawn from the model that the source is."""
    model, params = put_source(source)
    nothing = np.zeros(0, np.int32)
    keys = [jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds]
    return [
        np.asarray(generation.generate(key, model, params, nothing, num_tokens=num_tokens)) for key in keys
    ]


def parts(stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is trained on, and the last third, which is scored."""
    cut = len(stream) - len(stream) // 3
    return stream[:cut], stream[cut:]


def test_loss(model: Model, params: Params, stream: np.ndarray) -> float:
    """Nats a token of a stream's test part, without its first few."""
    log_probs = scoring.score_stream(model, params, parts(stream)[1])[SKIPPED:]
    return -float(log_probs.mean(dtype=np.float64))


def source_losses(source: MarkovChain | HiddenMarkov, streams: list[np.ndarray]) -> list[float]:
    """What a source itself loses on the test parts."""
    return [test_loss(*put_source(source), stream) for stream in streams]


def count_losses(vocab_size: int, streams: list[np.ndarray], order: int) -> list[float]:
    """What modified Kneser-Ney of an order loses, estimated on each stream."""
    losses = []
    word_of = FIRST_WORD_ID + np.arange(vocab_size)
    for stream in streams:
        marked = mark_sentences([FIRST_WORD_ID + parts(stream)[0]])
        tables = modified_kneser_ney(
            count_ngrams(marked, FIRST_WORD_ID + vocab_size, order), discount_fallback=True
        ).tables
        losses.append(test_loss(*put_tables(tables, word_of, has_unknown=False), stream))
    return losses


def neural_losses(
    config: ModelConfig,
    vocab_size: int,
    seeds: Sequence[int],
    streams: list[np.ndarray],
    num_train_steps: int,
) -> list[float]:
    """What a model loses that is trained on each stream, in one program."""
    model = build_model(config, vocab_size)
    train = TrainConfig(
        learning_rate=5e-3,
        num_train_steps=num_train_steps,
        warmup_steps=min(50, num_train_steps - 1),
        steps_per_dispatch=100,
    )
    trains = [parts(stream)[0] for stream in streams]
    batches = Batches(BATCH_SIZE, NUM_STEPS, "random")
    with steps_bar(num_train_steps) as show:
        found = fit_members(model, trains, train, seeds, batches=batches, on_steps=show)
    return [test_loss(model, params, stream) for params, stream in zip(found, streams, strict=True)]

"""How much text a recurrent net needs to be better than counts: both, trained on more and more of it."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from experiments.claims.counting_walls.settings import CrossingConfig
from experiments.text.loading import load_texts
from experiments.text.text_models import fit_neural
from lmseq import scoring
from lmseq.config.language_model import ModelConfig
from lmseq.config.text import TextConfig
from lmseq.data.texts import Texts
from lmseq.models.build import build_model
from lmseq.models.ngram import fit_counts

Level = Literal["char", "word"]
LEVELS: tuple[Level, ...] = ("char", "word")
BATCH_SIZE, NUM_STEPS = 16, 32
MOST_ORDER = 8
LEAST_STEPS = {"char": 500, "word": 100}  # of the net, where the passes over a small text are fewer
DROPOUT = 0.2


def load_level(corpus: str, level: Level) -> Texts:
    """The text, split; words that training has once are one word, `<unk>`."""
    return load_texts(TextConfig(corpus=corpus, level=level, min_count=2 if level == "word" else 1))


def last_tokens(texts: Texts, size: int) -> Texts:
    """The same with the last `size` tokens of the training text instead of all; the vocabulary stays."""
    return texts._replace(ids=texts.ids | {"train": texts.ids["train"][-size:]})


def measured_sizes(sizes: Sequence[int], available: int) -> list[int]:
    """Sizes below what there is, and all there is."""
    return [*(size for size in sorted(set(sizes)) if size < available), available]


def losses_at(config: CrossingConfig, texts: Texts, size: int, seed: int) -> dict[str, Any]:
    """Test losses in nats a token of counts and, one a seed, of a recurrent net.

    The order of the counts is the best on the validation text.
    """
    part, test, level = last_tokens(texts, size), texts.ids["test"], texts.vocab.level
    counts = fit_counts(part, MOST_ORDER, 1)
    units, embedding = (config.word_units, config.word_units) if level == "word" else (config.char_units, 0)
    kind = ModelConfig(model="gru", hidden_size=units, embedding_size=embedding, dropout=DROPOUT)
    model, seeds = build_model(kind, len(texts.vocab)), list(range(seed, seed + config.crossing_seeds))
    num_train_steps = max(LEAST_STEPS[level], config.num_passes * size // (BATCH_SIZE * NUM_STEPS))
    found = fit_neural(model, part, seeds, num_train_steps, BATCH_SIZE, NUM_STEPS)

    def loss(model: Any, params: Any) -> float:
        return scoring.mean_loss(model, params, test)

    return {
        "order": counts.order,
        "counts": loss(counts.model, counts.params),
        "gru": [loss(model, params) for params in found],
    }


def crossing(sizes: Sequence[float], gaps: Sequence[float]) -> float | None:
    """The first size from which on gaps are above 0, between two sizes on a line in its logarithm.

    None where the last gap is not above 0, and the first size where all are.
    """
    if gaps[-1] <= 0:
        return None
    behind = [place for place, gap in enumerate(gaps) if gap <= 0]
    if not behind:
        return float(sizes[0])
    place = behind[-1]
    return float(
        np.exp(np.interp(0.0, [gaps[place], gaps[place + 1]], np.log([sizes[place], sizes[place + 1]])))
    )

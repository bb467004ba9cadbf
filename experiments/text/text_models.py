"""Models of a text, fitted with few words: the best count model, and neural ones from many seeds."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.counts.counted import from_texts
from experiments.frame.progress import steps_bar
from experiments.text.texts import Texts
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.models.ngram import put_tables
from lmseq.ngram.backoff import BackoffTables, score_words
from lmseq.ngram.counts import count_ngrams, longest_sentence
from lmseq.ngram.smoothing import modified_kneser_ney
from lmseq.training.fit import fit_members
from lmseq.training.job import Batches
from lmseq.types import Params


class Counts(NamedTuple):
    """A count model under the contract, its order, and the bytes of its tables."""

    model: Model
    params: Params
    order: int
    num_bytes: int


def fit_counts(texts: Texts, most_order: int, least_order: int = 2) -> Counts:
    """Modified Kneser-Ney on the training text, of the first order that one more does not make better.

    Better on the validation text; orders from `least_order` to `most_order` are tried.
    """
    counted = from_texts(texts)
    stream = counted.streams["train"]
    counts = count_ngrams(stream, counted.num_words, min(most_order, longest_sentence(stream)))
    best: tuple[float, BackoffTables] | None = None
    for n in range(min(least_order, len(counts)), len(counts) + 1):
        tables = modified_kneser_ney(counts[:n], discount_fallback=True).tables
        nll = -float(score_words(tables, counted.streams["valid"]).sum())
        if best and nll >= best[0]:
            break
        best = nll, tables
    tables = best[1]
    has_unknown = counted.vocab.level in ("char", "word")
    model, params = put_tables(tables, counted.word_of, has_unknown=has_unknown)
    return Counts(model, params, len(tables.orders), tables.num_bytes)


def fit_neural(
    model: Model,
    texts: Texts,
    seeds: Sequence[int],
    num_train_steps: int,
    batch_size: int = 32,
    num_steps: int = 32,
) -> list[Params]:
    """Parameters after a training on the training text from each seed, in one program."""
    train = TrainConfig(
        num_train_steps=num_train_steps,
        warmup_steps=min(50, num_train_steps - 1),
        steps_per_dispatch=min(100, num_train_steps),
    )
    batches = Batches(batch_size, num_steps)
    with steps_bar(num_train_steps) as show:
        return fit_members(model, [texts.ids["train"]], train, seeds, batches=batches, on_dispatch=show)

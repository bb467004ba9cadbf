"""Vectors of n-grams beside a net's hidden state: of which order, how many, how wide."""

from dataclasses import dataclass

from lmseq.config.knobs import MOST_UNITS, Idle, at_least, below_one, knob, pick

MOST_ROWS = 2**26
MOST_NUMBERS = 2**32  # 16 GiB of them


@dataclass(frozen=True, kw_only=True)
class NgramFeatureConfig:
    """What a net's softmax sees of the last tokens themselves."""

    ngram_order: int = knob(
        0,
        "beside the hidden state the softmax sees learned vectors of the last 1, 2 ... ngram_order - 1 "
        "tokens, as counts of this order do; 0: none",
    )
    ngram_rows: int = knob(65536, "rows of the table of these vectors, which contexts share by hashing")
    ngram_size: int = knob(32, "numbers in each of these vectors")
    ngram_dropout: float = knob(
        0.0, "rate at which each of these vectors is dropped in training, anew at each step"
    )


def check_ngram_features(config: NgramFeatureConfig) -> None:
    """Raise ValueError for sizes out of range, and for an order that has no context."""
    if config.ngram_order:
        at_least(2, 64, **pick(config, "ngram_order"))
    at_least(1, MOST_ROWS, **pick(config, "ngram_rows"))
    at_least(1, MOST_UNITS, **pick(config, "ngram_size"))
    at_least(1, MOST_NUMBERS, **{"ngram_rows * ngram_size": config.ngram_rows * config.ngram_size})
    below_one(**pick(config, "ngram_dropout"))


def idle_ngram_features(config: NgramFeatureConfig, has_hidden: bool) -> list[Idle]:
    """Which settings nothing reads, as `check_idle` takes them. has_hidden: of a model with hidden states."""
    names = ("ngram_rows", "ngram_size", "ngram_dropout")
    return [
        (config, "ngram_order", has_hidden, "recurrent models and stacks"),
        *((config, name, config.ngram_order > 0, "models with an ngram_order") for name in names),
    ]

"""From marked sentences to the tables of a count model, and the file that keeps them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmseq.config import counts as counts_config
from lmseq.config.counts import NgramConfig
from lmseq.files import write_text
from lmseq.ngram import smoothing
from lmseq.ngram.backoff import BackoffTables
from lmseq.ngram.corpus import Counted
from lmseq.ngram.counts import OrderCounts, count_ngrams
from lmseq.ngram.storage import save_tables

BYTES_A_PAIR = 64  # while n-grams are sorted
BYTES_A_WORD = 20  # of the training text: its ids, their ranks before and after, and what is being sorted


class Made(NamedTuple):
    """Counts, what was estimated from them, and the seconds of each stage."""

    counts: list[OrderCounts]
    epsilons: list[float]
    tables: BackoffTables
    discounts: np.ndarray
    seconds: dict[str, float]


def make(config: NgramConfig, counted: Counted, scratch: Path | None) -> Made:
    """Count and estimate."""
    count, seconds, start = config.count, {}, time.monotonic()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = time.monotonic() - start, time.monotonic()

    stream, memory = counted.streams["train"], counts_config.memory_bytes(count)
    if scratch:
        needed = BYTES_A_WORD * stream.size
        if memory < needed:
            raise ValueError(
                f"counting {stream.size:,} words takes {needed / 2**20:.0f}M at least: give --memory more"
            )
        scratch.mkdir()
    at_once = memory // (8 * BYTES_A_PAIR)
    counts = count_ngrams(stream, counted.num_words, count.order, folder=scratch, at_once=at_once)
    lap("counting")
    epsilons = counts_config.epsilons(count) or _fitted(config, counted, counts)
    if not counts_config.epsilons(count) and epsilons:
        lap("fitting")
    smoothed = smoothing.estimate(count, counts, epsilons=epsilons, folder=scratch)
    lap("smoothing")
    return Made(counts, epsilons, *smoothed, seconds)


def save(workdir: Path, counted: Counted, tables: BackoffTables) -> float:
    """Write the tables beside the vocabulary; the seconds that it took."""
    start = time.monotonic()
    write_text(workdir / "vocab.json", counted.vocab.to_json())
    save_tables(workdir / "tables.npz", tables, word_of=counted.word_of)
    return time.monotonic() - start


def _fitted(config: NgramConfig, counted: Counted, counts: Sequence[OrderCounts]) -> list[float]:
    if not config.count.smoothing.startswith("epsilon"):
        return []
    if not counted.streams["valid"].size:
        raise ValueError(
            "expected a validation text to fit the epsilons on: give --epsilons or a valid_fraction"
        )
    fallback = "unigram" if config.count.smoothing == "epsilon_unigram" else "shorter"
    return smoothing.fit_epsilons(counts, counted.streams["valid"], fallback=fallback)

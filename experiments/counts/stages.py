"""The stages of a count model's run: from marked sentences to tables, figures, pictures and an ARPA file."""

import math
import shutil
import sys
import time
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.counts.loading import load_counted
from experiments.frame.console import listed, say
from experiments.frame.start import peak_memory
from experiments.text import pages
from experiments.text.suggest import suggest
from lmseq import scoring
from lmseq.config import counts as counts_config
from lmseq.config.counts import NgramConfig
from lmseq.files import write_text
from lmseq.ngram import arpa, smoothing
from lmseq.ngram.backoff import BackoffTables, score_words
from lmseq.ngram.corpus import Counted
from lmseq.ngram.counts import BOS_ID, UNK_ID, OrderCounts, count_ngrams
from lmseq.ngram.spelling import spell_symbols
from lmseq.ngram.storage import save_tables
from lmseq.ngram.words import spell_words

BYTES_A_PAIR = 64  # while n-grams are sorted
BYTES_A_WORD = 20  # of the training text: its ids, their ranks before and after, and what is being sorted


class PreparedCounts(NamedTuple):
    """The text that is counted, and the seconds that reading it took."""

    counted: Counted
    reading: float


def prepare(config: NgramConfig, given: Set[str]) -> PreparedCounts:
    """Read, split and number the text."""
    begun = time.monotonic()
    return PreparedCounts(load_counted(config.text, given), time.monotonic() - begun)


def run(config: NgramConfig, workdir: Path, prepared: PreparedCounts) -> dict[str, Any]:
    """Count, estimate, save, score, compare orders, draw; the summary."""
    counted, memory = prepared.counted, counts_config.memory_bytes(config.count)
    scratch = workdir / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was interrupted
    try:
        made = make(config, counted, scratch if memory else None)
        spent = {"reading": prepared.reading, **made.seconds}
        to_tables = sum(spent.values())
        with ThreadPoolExecutor(1) as beside:
            saved = beside.submit(save, workdir, counted, made.tables)
            found = figures(made.tables, counted)
            spent["saving"] = saved.result()
        say("   ".join(f"{name} {each:.2f} s" for name, each in spent.items()))
        rows = by_order(config, counted, made, found, scratch if memory else None)
        draw(config, workdir, counted, rows)
        if config.count.write_arpa:
            write(workdir, counted, made.tables)
        summed = {
            **summary(config, counted, made, rows),
            **found,
            **{f"seconds_{name}": each for name, each in spent.items()},
            "seconds_to_tables": to_tables,
            "peak_memory_bytes": peak_memory(),
        }
        write_page(config, workdir, counted, made.tables, summed)
        return summed
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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


def figures(tables: BackoffTables, counted: Counted) -> dict[str, Any]:
    """Loss, perplexity and bits of each split, its `</s>` scored; of words, also without unknown ones.

    Of scores that are no probabilities nothing is said but their mean.
    """
    found: dict[str, Any] = {}
    for split in ("valid", "test"):
        stream = counted.streams[split]
        predicted = stream != BOS_ID
        log_probs = score_words(tables, stream)[predicted]
        if not log_probs.size:
            found |= {f"{split}_{name}": None for name in ("loss", "perplexity", "bits_per_char")}
            continue
        if not tables.is_proper():
            found[f"{split}_mean_log_score"] = float(log_probs.mean())
            continue
        nll, unknown = -float(log_probs.sum()), stream[predicted] == UNK_ID
        of_split = scoring.loss_figures(nll, log_probs.size, counted.num_chars[split])
        if counted.vocab.level == "word":
            known = log_probs[~unknown]
            of_split["perplexity_known"] = math.exp(-known.mean()) if known.size else None
            of_split |= {"num_tokens": log_probs.size, "num_unknown": int(unknown.sum())}
        found |= {f"{split}_{name}": value for name, value in of_split.items()}
    return found


def by_order(
    config: NgramConfig, counted: Counted, made: Made, whole: dict[str, Any], scratch: Path | None
) -> list[dict[str, Any]]:
    """A row for each order up to the model's, printed as a table: n-grams, bytes, losses.

    The discounts of a lower order may be undefined where the model's are not: there they fall back.
    """
    rows = []
    lenient = replace(config.count, discount_fallback=True)
    unit = "perplexity" if counted.vocab.level == "word" else "bits_per_char"
    say(f"order      n-grams        bytes   valid {unit.replace('_', ' ')}")
    for n in range(1 if config.count.by_order else config.count.order, config.count.order + 1):
        tables, found = made.tables, whole
        if n < config.count.order:
            folder = scratch and scratch / f"order{n}"
            if folder:
                folder.mkdir()
            tables = smoothing.estimate(
                lenient, made.counts[:n], epsilons=made.epsilons, folder=folder
            ).tables
            found = figures(tables, counted)
            if folder:
                shutil.rmtree(folder)
        row = {"order": n, "num_ngrams": tables.num_ngrams, "num_bytes": tables.num_bytes, **found}
        rows.append(row)
        shown = row.get(f"valid_{unit}")
        say(
            f"{n:>5}{sum(row['num_ngrams']):>13,}{row['num_bytes']:>13,}   "
            + (f"{shown:.3f}" if shown else "-")
        )
    return rows


def write_page(
    config: NgramConfig, workdir: Path, counted: Counted, tables: BackoffTables, summary: dict[str, Any]
) -> None:
    """page.html, with the validation text as the model reads it."""
    vocab, symbol_of = counted.vocab, np.full(counted.num_words, -1, np.int32)
    symbol_of[counted.word_of] = np.arange(len(vocab))
    words = counted.streams["valid"]
    tokens = symbol_of[words[words != BOS_ID]]  # an end that no symbol stands for is none
    readers = []
    if tables.is_proper():
        loss, unknown = summary["valid_loss"], bool(vocab.unknown_ids)
        name = pages.model_name("train_ngram", summary)
        readers.append(pages.count_reader(name, loss, tables, counted.word_of, has_unknown=unknown))
    shown = pages.Shown("train_ngram", config, counted.facts(), summary, vocab, readers)
    pages.write(workdir, shown, tokens[tokens >= 0])


def draw(config: NgramConfig, workdir: Path, counted: Counted, rows: list[dict[str, Any]]) -> None:
    """orders.png, where there is something to compare."""
    names = ["page.html", "tables.npz", "vocab.json", "summary.json"]
    unit = "perplexity" if counted.vocab.level == "word" else "bits_per_char"
    scored = [
        row for row in rows if row.get(f"valid_{unit}") is not None and math.isfinite(row[f"valid_{unit}"])
    ]
    if len(scored) > 1:
        from experiments.counts import orders_picture
        from lmseq import plotting

        title = f"{counted.name}: {config.count.smoothing.replace('_', ' ')}"
        losses = {
            split: [row[f"{split}_{unit}"] for row in scored]
            for split in ("valid", "test")
            if scored[0].get(f"{split}_{unit}") is not None
        }
        figure = orders_picture.draw_orders(
            [row["order"] for row in scored],
            losses,
            [row["num_bytes"] for row in scored],
            "perplexity a token" if unit == "perplexity" else "bits a character",
            title,
        )
        plotting.save_figure(figure, workdir / "orders.png")
        names.insert(1, "orders.png")
    say(f"{workdir}: {'  '.join(names)}")
    suggest(workdir, counted.vocab, counted.vocab.tokens[1:])


def write(workdir: Path, counted: Counted, tables: BackoffTables) -> None:
    """model.arpa."""
    names = spell_symbols(counted.vocab)
    words = spell_words(names, counted.word_of, counted.num_words)
    pairs = zip(counted.vocab.tokens, names, strict=False)
    if counted.vocab.level == "word" and (marks := [s for s, name in pairs if name != s and name in words]):
        say(f"words that an ARPA file keeps for itself have a backslash in front there: {listed(marks)}")
    total = sum(tables.num_ngrams)
    with tqdm(total=total, unit=" n-grams", disable=not sys.stderr.isatty(), leave=False) as bar:
        arpa.write_arpa(workdir / "model.arpa", tables, words, bar.update)
    say(f"{workdir / 'model.arpa'}: {total:,} n-grams")


def summary(config: NgramConfig, counted: Counted, made: Made, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the run was and what it found, without the figures of its splits and its seconds."""
    return {
        "corpus": config.text.corpus,
        "level": config.text.level,
        "model": "ngram",
        "order": config.count.order,
        "smoothing": config.count.smoothing,
        "vocab_size": len(counted.vocab),
        "num_ngrams": made.tables.num_ngrams,
        "discounts": made.discounts.tolist(),
        "epsilons": made.epsilons,
        "num_bytes": made.tables.num_bytes,
        "by_order": [
            {name: value for name, value in row.items() if not name.startswith("test_")} for row in rows
        ],
    }

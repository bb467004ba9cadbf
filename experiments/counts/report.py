"""What is said of a count model: figures, orders compared, pictures, an ARPA file and the page."""

import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.counts import orders_picture
from experiments.counts.making import Made
from experiments.frame.console import listed, say
from experiments.text import pages
from experiments.text.suggest import suggest
from lmseq import plotting, scoring
from lmseq.config.counts import NgramConfig
from lmseq.ngram import arpa, smoothing
from lmseq.ngram.backoff import BackoffTables, score_words
from lmseq.ngram.corpus import Counted
from lmseq.ngram.counts import BOS_ID, UNK_ID
from lmseq.ngram.spelling import spell_symbols
from lmseq.ngram.words import spell_words


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


class ReadText(NamedTuple):
    """The validation text as ids of symbols, (T,), and who has read it for the page."""

    tokens: np.ndarray
    readers: list[pages.Reader]


def read_by(config: NgramConfig, counted: Counted, tables: BackoffTables, found: dict[str, Any]) -> ReadText:
    """The validation text as the model reads it; without a reader where its scores are no probabilities."""
    vocab, symbol_of = counted.vocab, np.full(counted.num_words, -1, np.int32)
    symbol_of[counted.word_of] = np.arange(len(vocab))
    words = counted.streams["valid"]
    tokens = symbol_of[words[words != BOS_ID]]  # an end that no symbol stands for is none
    tokens = tokens[tokens >= 0]
    if not tables.is_proper() or not len(tokens):
        return ReadText(tokens, [])
    loss, unknown = found["valid_loss"], bool(vocab.unknown_ids)
    name = pages.model_name("train_ngram", {"order": config.count.order})
    reader = pages.count_reader(name, loss, tables, counted.word_of, has_unknown=unknown)
    return ReadText(tokens, [pages.read_ahead(reader, tokens, len(vocab))])


def write_page(
    config: NgramConfig, workdir: Path, counted: Counted, text: ReadText, summed: dict[str, Any]
) -> None:
    """page.html, with the validation text as the model reads it."""
    shown = pages.Shown("train_ngram", config, counted.facts(), summed, counted.vocab, text.readers)
    pages.write(workdir, shown, text.tokens)


def draw(config: NgramConfig, workdir: Path, counted: Counted, rows: list[dict[str, Any]]) -> None:
    """orders.png, where there is something to compare."""
    names = ["page.html", "tables.npz", "vocab.json", "summary.json"]
    unit = "perplexity" if counted.vocab.level == "word" else "bits_per_char"
    scored = [
        row for row in rows if row.get(f"valid_{unit}") is not None and math.isfinite(row[f"valid_{unit}"])
    ]
    if len(scored) > 1:
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


def write_arpa_file(workdir: Path, counted: Counted, tables: BackoffTables) -> None:
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

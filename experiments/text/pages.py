"""The page of a run on a text: what it was, its figures beside the obvious ones, the text as it read it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.web import document, runs
from experiments.web.charts import chart_of
from experiments.web.reading import (
    NUM_ALTERNATIVES,
    NUM_TOKENS,
    Read,
    reading_of,
    tokens_shown,
)
from lmseq import plotting
from lmseq.alternatives import Alternatives, alternatives
from lmseq.contract import Model
from lmseq.data.tokens import Vocab
from lmseq.models.ngram import Counts, model_of_tables
from lmseq.models.ngram_alternatives import ngram_alternatives
from lmseq.ngram.backoff import BackoffTables
from lmseq.plotting import Curve, Panel
from lmseq.runs import Run, is_proper
from lmseq.training.metrics import read_records
from lmseq.types import Params

HORIZONS = (1, 4, 16, 64)


class Reader(NamedTuple):
    """A model by its name, its loss on all that was scored of the validation text, and how it reads."""

    name: str
    loss: float | None
    read: Callable[[np.ndarray], Alternatives]


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page of a run is made of.

    script, config, facts, summary: of the run, the facts being those of its text. vocab: its symbols.
    readers: models that read the beginning of the validation text; the first is the run's own. horizon:
    log-probabilities by origin and k, (O, K), where they are at hand; else the page has what the summary says
    of them. check: settles settings of the config that follow from others.
    """

    script: str
    config: Any
    facts: Mapping[str, Any]
    summary: Mapping[str, Any]
    vocab: Vocab
    readers: Sequence[Reader]
    horizon: np.ndarray | None = None
    check: Callable[[Any], Any] = lambda config: config


def write(
    workdir: Path, shown: Shown, valid: np.ndarray, *, name: str = "", num_tokens: int = NUM_TOKENS
) -> None:
    """Write page.html into the folder of a run; valid: ids of its validation text, (T,)."""
    document.write_page(
        workdir / document.PAGE, data_of(workdir, shown, valid, name=name, num_tokens=num_tokens)
    )


def data_of(
    workdir: Path, shown: Shown, valid: np.ndarray, *, name: str = "", num_tokens: int = NUM_TOKENS
) -> dict[str, Any]:
    """The data of the page of a run, which is called `name`, or as its folder."""
    name, summary = name or workdir.resolve().name, shown.summary
    corpus = str(summary.get("corpus", ""))
    return {
        "kind": "text",
        "title": f"{model_name(shown.script, summary)} on {Path(corpus).name or corpus}",
        "runs": [runs.run_of(name, shown.script, shown.config, shown.facts, summary, shown.check)],
        "table": rows_of(shown),
        "charts": charts_of(workdir, shown),
        "readings": _readings(shown, valid, num_tokens),
        "samples": {name: runs.samples_of(workdir)},
    }


def model_name(script: str, summary: Mapping[str, Any]) -> str:
    """The model of a run in a word or two."""
    match script:
        case "train_ngram":
            return f"{summary['order']}-gram"
        case "mix_models":
            return "mixture"
        case "average":
            return "mean of runs"
        case _:
            return str(summary["model"])


def neural_reader(name: str, loss: float | None, model: Model, params: Params, vocab_size: int) -> Reader:
    """A model under the contract."""
    return Reader(
        name, loss, lambda tokens: alternatives(model, params, tokens, vocab_size, NUM_ALTERNATIVES)
    )


def count_reader(
    name: str, loss: float | None, tables: BackoffTables, word_of: np.ndarray, *, has_unknown: bool
) -> Reader:
    """A count model, read by NumPy, which compiles nothing."""
    model = model_of_tables(tables, word_of, has_unknown=has_unknown)
    return Reader(
        name, loss, lambda tokens: ngram_alternatives(model, tables, word_of, tokens, NUM_ALTERNATIVES)
    )


def readers_of(found: Sequence[tuple[str, float | None, Run]]) -> list[Reader]:
    """Models from disk with their names and losses; none of those whose scores are no probabilities."""
    readers = []
    for name, loss, run in found:
        if run.tables is None:
            readers.append(neural_reader(name, loss, run.model, run.params, len(run.vocab)))
        elif is_proper(run):
            unknown = bool(run.vocab.unknown_ids)
            word_of = np.asarray(run.params.word_of)
            readers.append(count_reader(name, loss, run.tables, word_of, has_unknown=unknown))
    return readers


def reader_beside(vocab: Vocab, counts: Counts, loss: float | None) -> Reader:
    """A count model that was fitted beside a run."""
    word_of, unknown = np.asarray(counts.params.word_of), bool(vocab.unknown_ids)
    return count_reader(f"{counts.order}-gram", loss, counts.tables, word_of, has_unknown=unknown)


def read_ahead(reader: Reader, valid: np.ndarray, vocab_size: int) -> Reader:
    """The reader with what a page shows of a validation text (T,), read now. It reads nothing else."""
    known = _beginning(valid, vocab_size, NUM_TOKENS)
    found = reader.read(known)

    def read(tokens: np.ndarray) -> Alternatives:
        if not np.array_equal(tokens, known):
            raise ValueError(f"expected the {len(known)} tokens that were read ahead, got {len(tokens)}")
        return found

    return reader._replace(read=read)


def _beginning(valid: np.ndarray, vocab_size: int, num_tokens: int) -> np.ndarray:
    return np.asarray(valid[: tokens_shown(len(valid), vocab_size, num_tokens)], np.int32)


def _readings(shown: Shown, valid: np.ndarray, num_tokens: int) -> list[dict[str, Any]]:
    if not shown.readers or not len(valid):
        return []
    tokens = _beginning(valid, len(shown.vocab), num_tokens)
    found = [Read(each.name, 0, each.read(tokens), each.loss) for each in shown.readers]
    return [reading_of(shown.vocab, tokens, len(valid), found)]


# Figures, as the summary has them


def rows_of(shown: Shown) -> list[dict[str, Any]]:
    """The table: the models that anyone can make, as far as the summary has them, and below them the run."""
    summary = shown.summary
    own = {
        "name": model_name(shown.script, summary),
        "own": True,
        "size": _size(summary),
        **{f"{split}_loss": summary.get(f"{split}_loss") for split in ("valid", "test")},
    }
    match shown.script:
        case "train_ngram":
            rows = [{"name": f"{row['order']}-gram", **_plain(row)} for row in summary["by_order"][:-1]]
        case "mix_models":
            rows = [
                {
                    "name": key.removeprefix("valid_loss_"),
                    "valid_loss": value,
                    "test_loss": summary.get(f"test_loss_{key.removeprefix('valid_loss_')}"),
                }
                for key, value in summary.items()
                if key.startswith("valid_loss_")
            ]
        case "average":
            rows = [{"name": Path(run["path"]).name, **_plain(run)} for run in summary["runs"]]
        case _:
            rows = [
                {"name": "uniform", "valid_loss": math.log(summary["vocab_size"])},
                {"name": "unigram", "valid_loss": summary["unigram_loss"]},
            ]
            if "count_loss" in summary and "count_order" in summary:
                rows.append({"name": f"{summary['count_order']}-gram", "valid_loss": summary["count_loss"]})
    return [_with_bits(row, summary) for row in [*rows, own]]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    size = {"size": f"{row['num_bytes']:,} bytes"} if "num_bytes" in row else {}
    return {name: row.get(name) for name in ("valid_loss", "test_loss")} | size


def _size(summary: Mapping[str, Any]) -> str:
    if "num_parameters" in summary:
        return f"{summary['num_parameters']:,} parameters"
    return f"{summary['num_bytes']:,} bytes" if "num_bytes" in summary else ""


def _with_bits(row: dict[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The same with bits a character, of which a text has as many for each nat of any model."""
    for split in ("valid", "test"):
        loss, bits = summary.get(f"{split}_loss"), summary.get(f"{split}_bits_per_char")
        if loss and bits and row.get(f"{split}_loss") is not None:
            row[f"{split}_bits_per_char"] = row[f"{split}_loss"] * bits / loss
    return row


def charts_of(workdir: Path, shown: Shown) -> dict[str, Any]:
    """The learning curve and the loss k tokens ahead of a training, the losses by order of counts."""
    summary = shown.summary
    if shown.script == "train_ngram":
        return _by_order(summary)
    if shown.script != "train_lm":
        return {}
    unigram = summary["unigram_loss"]
    panel = plotting.learning_panel(read_records(workdir / "metrics.jsonl"), unigram, "Learning curves")
    found = {"learning": chart_of(panel)}
    if shown.horizon is not None and shown.horizon.size:
        panel = plotting.horizon_panel(shown.horizon, unigram, "Loss by horizon")
        return found | {"horizon": chart_of(panel)}
    losses = [(k, summary[f"loss_at_{k}"]) for k in HORIZONS if summary.get(f"loss_at_{k}") is not None]
    if not losses:
        return found
    curve = Curve("model, on its own continuations", *zip(*losses, strict=True))
    panel = Panel("Loss by horizon", "k, tokens ahead", "nats a token", [curve], {"unigram": unigram}, "x")
    return found | {"horizon": chart_of(panel)}


def _by_order(summary: Mapping[str, Any]) -> dict[str, Any]:
    rows = [row for row in summary["by_order"] if row.get("valid_loss") is not None]
    if len(rows) < 2:
        return {}
    curve = Curve("validation", [row["order"] for row in rows], [row["valid_loss"] for row in rows])
    return {"order": chart_of(Panel("Loss by order", "order", "nats a token", [curve]))}

"""Write README.md and the pages that show measured figures, from their templates and the records.

    python -m docs.tools.figures          # write them
    python -m docs.tools.figures --check  # exit status 1 if one is not what this would write

A template (docs/templates/) is the page with `{{place:format}}` for each figure, `place` being the keys of a
record in benchmarks/results/ joined by dots, and `{{name}}` for what a function below writes: a table, or the
output of a command. Edit the template, never the page: a test compares them byte for byte.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TEMPLATES = ROOT / "docs" / "templates"
FIELD = re.compile(r"\{\{([\w.]+)(?::([^{}]+))?\}\}")
Row = tuple[Any, ...]


def records() -> dict[str, Any]:
    """Every record of a benchmark or of shown commands, by the name of its file."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))
    }


def templates() -> list[Path]:
    """The templates, by name."""
    return sorted(TEMPLATES.rglob("*.md"))


def target(template: Path) -> Path:
    """The page that a template makes."""
    name = template.relative_to(TEMPLATES)
    return ROOT / name if name == Path("README.md") else ROOT / "docs" / name


def render(text: str, found: dict[str, Any]) -> str:
    """A template with its fields filled in. Raises KeyError, with the field, for one that is in no record."""
    blocks = {block.__name__: block for block in BLOCKS}

    def fill(field: re.Match) -> str:
        place, how = field[1], field[2]
        if place in blocks:
            return blocks[place](found)
        return format(look_up(found, place), how or "")

    return FIELD.sub(fill, text)


def look_up(found: Any, place: str) -> Any:
    """What stands at `place`, keys joined by dots. Raises KeyError for a place that is not there."""
    for key in place.split("."):
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(f"no figure at {place}: nothing at {key!r}") from None
    return found


def table(header: Row, rows: list[Row]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    lines = ["| " + " | ".join(map(str, header)) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


# README


def models_of_the_demo(found: dict[str, Any]) -> str:
    """Counts, net and mixture on the test text of the demo: the one table of the README."""
    shown = found["shown"]
    demo, counts, mixed = (shown[name]["summary"] for name in ("demo", "counts", "mixed"))
    net_bytes, net_seconds = 4 * demo["num_parameters"], demo["wall_seconds"]
    rows = [
        (
            f"{counts['order']}-gram counts, modified Kneser-Ney",
            f"{counts['test_bits_per_char']:.3f}",
            f"{counts['num_bytes']:,}",
            f"{counts['wall_seconds']:.1f}",
        ),
        (
            f"recurrent net, {demo['model'].upper()}",
            f"{demo['test_bits_per_char']:.3f}",
            f"{net_bytes:,}",
            f"{net_seconds:.1f}",
        ),
        (
            "mixture of both",
            f"{mixed['test_bits_per_char']:.3f}",
            f"{counts['num_bytes'] + net_bytes:,}",
            f"{counts['wall_seconds'] + net_seconds + mixed['wall_seconds']:.1f}",
        ),
    ]
    return table(("model", "bits per character", "bytes of the model", "seconds, start to end"), rows)


def quickstart_sample(found: dict[str, Any]) -> str:
    """What the quickstart printed."""
    return "\n".join(found["shown"]["quickstart"]["lines"])


# Outputs of commands


def _told(found: dict[str, Any], name: str, first: str, number: int) -> str:
    """`number` lines of what a command printed, from the one that begins with `first`."""
    lines = found["shown"][name]["told"]
    (start,) = [i for i, line in enumerate(lines) if line.startswith(first)][:1]
    return "\n".join(lines[start : start + number])


def demo_table(found: dict[str, Any]) -> str:
    """The table at the end of the demo, with the losses k steps ahead."""
    return _told(found, "demo", "validation", 6)


def scored(found: dict[str, Any]) -> str:
    """What score_text printed."""
    return "\n".join(found["shown"]["score"]["lines"])


def sampled(found: dict[str, Any]) -> str:
    """What sample_text printed."""
    return "\n".join(found["shown"]["sample"]["lines"])


def sine_table(found: dict[str, Any]) -> str:
    """RMSE by horizon of the noisy sine, with the sentence below it."""
    return _told(found, "sine", "RMSE, k steps", 7)


def m4_table(found: dict[str, Any]) -> str:
    """The figures of the hourly series of M4, with what was read above them."""
    return _told(found, "m4", "Hourly-train", 2) + "\n" + _told(found, "m4", " " * 19, 6)


def etth1_table(found: dict[str, Any]) -> str:
    """The figures of ETTh1, 96 steps ahead."""
    return _told(found, "etth1", "ETTh1", 9)


def ptb_table(found: dict[str, Any]) -> str:
    """Perplexity by order on the Penn Treebank."""
    return _told(found, "ptb", "order", 6)


def mixture_table(found: dict[str, Any]) -> str:
    """Weights and losses of the mixture of the demo with counts."""
    lines = found["shown"]["mixed"]["told"]
    (start,) = [i for i, line in enumerate(lines) if line.split()[:1] == ["weight"]]
    return "\n".join(lines[start : start + 4])


def tau_table(found: dict[str, Any]) -> str:
    """What the ablation of tau printed."""
    lines = found["shown"]["tau"]["told"]
    (start,) = [i for i, line in enumerate(lines) if line.startswith("| tau")][:1]
    return "\n".join(lines[start:])


def minutes_of_the_demo(found: dict[str, Any]) -> str:
    """Minutes that the demo takes with its environment made, rounded up to a half."""
    halves = math.ceil(found["shown"]["demo"]["summary"]["wall_seconds"] / 30)
    return f"{halves / 2:g}"


# Benchmarks

WORK = {
    "rnn_char": "tanh RNN, 65 symbols, 256 units",
    "gru_char": "GRU, the same",
    "lstm_char": "LSTM, the same",
    "lstm_char_large": "LSTM, 65 symbols, 2 layers of 512",
    "lstm_ptb_small": "LSTM, 10,000 words, 2 layers of 200",
    "lstm_ptb_medium": "LSTM, 10,000 words, 2 layers of 650",
    "lstm_ptb_dropout": "the same with dropout of 0.5",
    "lstm_one_row": "LSTM, 65 symbols, 256 units, one row of 1,000 steps",
    "gru_one_row": "GRU, the same",
    "lstm_four_rows": "LSTM, 65 symbols, 512 units, 4 rows of 250 steps",
    "lstm_many_rows": "LSTM, 65 symbols, 256 units, 256 rows",
    "lstm_wide": "LSTM, 65 symbols, 1,024 units",
    "lstm_deep": "LSTM, 65 symbols, 3 layers of 1,150, 20 rows of 70 steps",
}


def slowest_ratio(found: dict[str, Any]) -> str:
    """The least of PyTorch's times divided by ours."""
    return f"{min(found['recurrence']['ratios'][name] for name in WORK):.1f}"


def fastest_ratio(found: dict[str, Any]) -> str:
    """The largest of PyTorch's times divided by ours."""
    return f"{max(found['recurrence']['ratios'][name] for name in WORK):.1f}"


def training_table(found: dict[str, Any]) -> str:
    """Tokens per second in training, and how PyTorch and Flax's layers compare."""
    ratios, rows = found["recurrence"]["ratios"], []
    for name, what in WORK.items():
        row = found["recurrence"]["rows"][name]
        tokens = row["work"]["batch_size"] * row["work"]["num_steps"]
        speed = 1000 * tokens / statistics.median(row["milliseconds"]["lmseq"])
        compared = [ratios.get(name + end) for end in ("", "_bf16", "_half")]
        compared.append(found["recurrence"]["peak_share"][name])
        compared += [ratios.get(name + end) for end in ("_scan", "_flax")]
        cells = ("" if ratio is None else f"{ratio:.2f}" for ratio in compared)
        rows.append((what, f"{speed / 1000:.0f}k", *cells))
    header = (
        "work",
        "tokens/s",
        "against PyTorch",
        "bfloat16",
        "bfloat16 against float32",
        "share of peak",
        "without compiled loops",
        "Flax's layers against PyTorch",
    )
    return table(header, rows)


def product_peaks(found: dict[str, Any]) -> str:
    """GFLOP/s of products on either side."""
    sides = found["recurrence"]["peaks"]
    return "; ".join(
        f"{name} {sides[side]['float32']:.0f} in float32 and {sides[side]['bfloat16']:.0f} in bfloat16"
        for side, name in (("lmseq", "XLA"), ("torch", "PyTorch"))
    )


def ensembles_table(found: dict[str, Any]) -> str:
    """Cost of trainings together."""
    rows = [(row["members"], f"{row['cost']:.2f}") for row in found["ensembles"]["rows"]]
    return table(("trainings", "cost"), rows)


def ensembles_processes(found: dict[str, Any]) -> str:
    """How many processes were compared with one program."""
    (name,) = [name for name in found["ensembles"]["ratios"] if name.startswith("processes_")]
    return name.removeprefix("processes_")


def sampling_table(found: dict[str, Any]) -> str:
    """Tokens per second in sampling."""
    rows = []
    for row in found["sampling"]["rows"]:
        speeds = {name: statistics.median(values) for name, values in row["tokens_per_second"].items()}
        shown = (f"{round(speeds[name], -2):,.0f}" for name in ("lmseq", "LSTMCell", "nn.LSTM"))
        rows.append((row["name"], *shown, f"{row['ratio']:.2f}"))
    header = ("work and streams", "lmseq", "PyTorch, LSTMCell", "PyTorch, nn.LSTM", "against the faster")
    return table(header, rows)


def contexts_table(found: dict[str, Any]) -> str:
    """Milliseconds of training steps of attention and matrix states, and tokens a second of a stream."""
    rows = []
    for name, row in found["contexts"]["rows"].items():
        ours, peer = (row["milliseconds"][side][0] for side in ("lmseq", "torch"))
        shown = f"{ours:.1f} ms", f"{peer:.1f} ms", f"{peer / ours:.2f}"
        rows.append((f"`{name}`", *shown))
    return table(("work", "lmseq", "PyTorch", "PyTorch's time over ours"), rows)


def memory_table(found: dict[str, Any]) -> str:
    """Bytes of gradients, ours and plain."""
    rows = [
        (
            name,
            *(f"{sizes[side] / 1e6:,.1f} MB" for side in ("fast", "plain")),
            f"{sizes['plain'] / sizes['fast']:.2f}",
        )
        for name, sizes in found["memory"]["bytes"].items()
    ]
    return table(("work", "lmseq", "JAX alone", "ratio"), rows)


def startup_table(found: dict[str, Any]) -> str:
    """Seconds from the start of a process."""
    seconds = found["startup"]["seconds"]
    rows = [
        ("`--help`", f"{seconds['help']:.2f}"),
        ("first steps, nothing compiled yet", f"{seconds['first']:.1f}"),
        ("first steps, started again", f"{seconds['again']:.1f}"),
        ("first steps, without the cache", f"{seconds['without']:.1f}"),
    ]
    return table(("from process start to", "seconds"), rows)


def backtest_table(found: dict[str, Any]) -> str:
    """Forecasts beside darts'."""
    rows = [
        (
            row["model"]
            .replace("_", " ")
            .replace("mlp large", "mlp, large")
            .replace("lstm large", "lstm, large"),
            f"{row['points']:,}",
            f"{row['origins']:,}",
            str(row["horizon"]),
            f"{row['darts_seconds']:.2f}",
            f"{row['process_ratio']:.1f}" if "process_ratio" in row else "",
            f"{row['warm_ratio']:.1f}",
            f"{row['cold_ratio']:.2f}",
        )
        for row in found["backtest"]["rows"]
    ]
    header = ("model", "points", "origins", "ahead", "darts, s", "ratio of processes")
    return table((*header, "without compilation", "with compilation"), rows)


TASKS = {
    "m4_hourly": "M4, hourly",
    "m4_hourly_sample": "M4, a sample of its hourly series",
    "etth1_96": "ETTh1",
    "etth1_96_sample": "ETTh1, every 96th origin",
    "sunspots": "Sunspots, yearly",
    "co2": "CO2, weekly",
    "nile": "Nile, yearly",
    "elnino": "El Nino, monthly",
}


def forecasting_load(found: dict[str, Any]) -> str:
    """Processes that ran or waited while forecasts were compared, beside the one that was measured."""
    loads = [row["load"] for row in found["forecasting"]["rows"]]
    return f"{max(0, statistics.median(loads) - 1):.0f}"


def forecasting_tables(found: dict[str, Any]) -> str:
    """A table of each task, the best first, and sentences that say who is better."""
    record, parts = found["forecasting"], []
    for task, title in TASKS.items():
        verdicts = [each for each in record["verdicts"] if each["task"] == task]
        rows = [row for row in record["rows"] if row["task"] == task]
        if not rows:
            continue
        rows.sort(key=lambda row: row.get(verdicts[0]["figure"], math.inf))
        told = [(row["name"], *_figures(row), *_seconds(row)) for row in rows]
        size = (
            f"{rows[0]['num_series']} series, {rows[0]['num_origins']:,} origins, {rows[0]['horizon']} ahead"
        )
        parts.append(table((f"{title}: {size}", *FIGURES.values(), "seconds", "of a core"), told))
        parts.append(" ".join(_verdict(each) for each in verdicts))
    return "\n\n".join(parts)


FIGURES = {"smape": "sMAPE", "mase": "MASE", "mse": "MSE", "mae": "MAE"}


def _verdict(found: dict[str, Any]) -> str:
    both = ", ".join(found["better_and_faster"]) or "nobody"
    return (
        f"Best by {FIGURES[found['figure']]}: {found['best']}; at once better and faster than "
        f"{found['ours']}: {both}."
    )


def _figures(row: dict[str, Any]) -> Row:
    return tuple(f"{row[name]:#.4g}".rstrip(".") if name in row else "" for name in FIGURES)


def _seconds(row: dict[str, Any]) -> Row:
    if "failed" in row:
        return row["failed"], ""
    return f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}"


RATIOS = {
    "estimate": "whole run: text to tables in a file, KenLM's to an ARPA file",
    "text_to_tables": "text to tables in memory",
    "memory": "largest memory of the whole run, ours divided by KenLM's",
    "device_bulk_to_query_text": "scoring a whole text, against KenLM's `query`",
    "numpy_one_sentence_to_kenlm_one_sentence": "scoring one sentence at a time, against its Python module",
    "native_one_sentence_to_kenlm_one_sentence": "the same by compiled routines",
    "native_one_word_to_kenlm_one_word": "extending a state by a word, against its Python module",
    "native_read_arpa": "reading an ARPA file by compiled routines, against its Python module",
    "device_bulk_to_nltk": "scoring a whole text, against nltk",
}


def ngram_table(found: dict[str, Any]) -> str:
    """Counts beside KenLM's and nltk's."""
    texts = ("ngram_ptb", "ngram_20m", "ngram_100m")
    rows = []
    for key, what in RATIOS.items():
        ratios = [found[text]["ratios"].get(key) for text in texts]
        if not any(ratios):
            continue
        rows.append((what, *("" if ratio is None else f"{ratio:,.2f}" for ratio in ratios)))
    return table(("", "Penn Treebank", "20 M words", "100 M words"), rows)


BLOCKS: tuple[Callable[[dict[str, Any]], str], ...] = (
    models_of_the_demo,
    quickstart_sample,
    demo_table,
    scored,
    sampled,
    sine_table,
    m4_table,
    etth1_table,
    ptb_table,
    mixture_table,
    tau_table,
    minutes_of_the_demo,
    slowest_ratio,
    fastest_ratio,
    training_table,
    product_peaks,
    ensembles_table,
    ensembles_processes,
    sampling_table,
    contexts_table,
    memory_table,
    startup_table,
    backtest_table,
    forecasting_load,
    forecasting_tables,
    ngram_table,
)


def main() -> int:
    """Write the pages, or say which are not up to date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a page is out of date"
    )
    check, found, stale = parser.parse_args().check, records(), []
    for template in templates():
        page, text = target(template), render(template.read_text(encoding="utf-8"), found)
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(page.relative_to(ROOT)))
        if not check:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name} is not what its template gives: run make figures" if check else f"wrote {name}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

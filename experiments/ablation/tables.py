"""What an ablation found, as tables and a picture: a row a cell, a row a setting, pairs of settings."""

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.ablation.design import Design, Setting, label, read_value
from experiments.frame.intervals import estimate, standard_error
from lmseq.files import write_text

Row = dict[str, Any]
ENDINGS = ("_loss", "_rmse", "verdict")


class Found(NamedTuple):
    """What a report is of: the experiment, the columns of settings, and the rows of the cells.

    usual: the metrics that are shown where none are asked for: of each group the first that there is.
    """

    experiment: str
    names: tuple[str, ...]
    rows: list[Row]
    usual: Sequence[Sequence[str]] = ()

    def settings(self) -> dict[tuple, list[Row]]:
        """The rows of each setting, in order."""
        grouped: dict[tuple, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(tuple(row[name] for name in self.names), []).append(row)
        return grouped


def found_of(design: Design, done: dict[str, dict[str, Any]]) -> Found:
    """A row for each cell that is done: setting, seed, figures (not those named as a setting), error."""
    rows = []
    for cell in design.cells():
        record = done.get(cell.name)
        if record is None:
            continue
        figures = {k: v for k, v in record["figures"].items() if k not in (*design.names, "seed", "error")}
        rows.append(
            typed(cell.setting, design.names) | {"seed": cell.seed} | figures | {"error": record["error"]}
        )
    return Found(design.experiment.name, design.names, rows, design.experiment.metrics)


def typed(setting: Setting, names: Sequence[str]) -> Row:
    """The values of a setting as numbers where they are some; None of those that it does not give."""
    return {name: read_value(setting[name]) if name in setting else None for name in names}


def is_number(value: Any) -> bool:
    """Whether a figure can be averaged."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def columns(found: Found) -> list[str]:
    """The figures of the cells, in the order that they first come in."""
    outside = {*found.names, "seed", "error"}
    return list(dict.fromkeys(name for row in found.rows for name in row if name not in outside))


def numeric_columns(found: Found) -> list[str]:
    """Those figures that are numbers wherever they are known."""
    known = {name: [row[name] for row in found.rows if row.get(name) is not None] for name in columns(found)}
    return [name for name, values in known.items() if values and all(map(is_number, values))]


def told_interval(samples: Sequence[float]) -> str:
    """Mean, standard error and interval, `2 ± 0.58 [-0.48, 4.5]`; of one sample the mean alone."""
    mean, low, high = estimate(samples)
    spread = f" ± {standard_error(samples):.2g} [{low:.4g}, {high:.4g}]" if len(samples) > 1 else ""
    return f"{mean:.4g}{spread}"


def samples(rows: Sequence[Row], name: str) -> list[float]:
    """The figures of a name; NaN of a finished cell where it is no number: null stands for infinite too."""
    finished = [row for row in rows if name in row and not row.get("error")]
    return [row[name] if is_number(row[name]) else math.nan for row in finished]


def choose_metrics(found: Found, asked: str) -> list[str]:
    """The columns that are shown: those asked for, or what suits the experiment.

    Raises ValueError for a column that finished cells do not have, with the nearest that they have.
    """
    there = [name for name in columns(found) if any(row.get(name) is not None for row in found.rows)]
    if asked and not there:
        return []
    if asked:
        wanted = [name.strip() for name in asked.split(",") if name.strip()]
        for name in wanted:
            refuse_missing(name, there)
        return wanted
    groups = [[name for name in group if name in there] for group in found.usual]
    usual = [group[0] for group in groups if group]
    return usual or [name for name in there if name.endswith(ENDINGS)] or numeric_columns(found)[:1]


def refuse_missing(name: str, there: Sequence[str]) -> None:
    """ValueError for a column that is not there, with the nearest that are."""
    if name not in there:
        near = difflib.get_close_matches(name, there, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(list(there)[:20])}"
        raise ValueError(f"no column {name!r}: {hint}")


def summarise(found: Found) -> list[Row]:
    """A row a setting: how many cells finished and failed, and an estimate of each numeric figure."""
    names, rows = numeric_columns(found), []
    for key, cells in found.settings().items():
        failed = sum(bool(row["error"]) for row in cells)
        row = dict(zip(found.names, key, strict=True))
        row |= {"num_seeds": len(cells) - failed, "num_failed": failed}
        for name in names:
            found_samples = samples(cells, name)
            (mean, low, high), error = estimate(found_samples), standard_error(found_samples)
            row |= {name: mean, f"{name}_stderr": error, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return rows


def pair(found: Found, reference: Row) -> list[Row]:
    """Of every other setting: what it has more than the reference, in the mean over the seeds of both."""
    grouped, names = found.settings(), numeric_columns(found)
    chosen = tuple(reference[name] for name in found.names)
    by_seed = {row["seed"]: row for row in grouped.get(chosen, ())}
    rows = []
    for key, cells in grouped.items():
        if key == chosen:
            continue
        row = dict(zip(found.names, key, strict=True))
        pairs = [(cell, by_seed[cell["seed"]]) for cell in cells if cell["seed"] in by_seed]
        for name in names:
            known = [values for values in (samples(two, name) for two in pairs) if len(values) == 2]
            more = [mine - its for mine, its in known]
            mean, low, high = estimate(more)
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_pairs": len(more)}
        rows.append(row)
    return rows


def entry(cells: Sequence[Row], metric: str, numeric: Sequence[str]) -> str:
    """A metric of a setting in a Markdown table; of texts, which are not `numeric`, how often each comes."""
    if metric in numeric:
        numbers = samples(cells, metric)
        known = [number for number in numbers if math.isfinite(number)]
        undefined = f", {len(numbers) - len(known)} undefined" if len(known) < len(numbers) else ""
        return told_interval(known) + undefined if known else "-"
    texts = Counter(str(row[metric]) for row in cells if row.get(metric) is not None)
    return ", ".join(f"{text} ({count})" for text, count in texts.items()) or "-"


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *([text.replace("|", "\\|") for text in row] for row in body)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    lines[1] = ["-" * width for width in widths]
    padded = [" | ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)) for line in lines]
    return "".join(f"| {line} |\n" for line in padded)


def told(value: Any) -> str:
    """A value of a setting in a table."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def markdown(found: Found, metrics: Sequence[str]) -> str:
    """The settings with their metrics: mean ± standard error [95 % interval]."""
    head, body, numeric = [*found.names, "seeds", *metrics], [], numeric_columns(found)
    any_failed = any(row["error"] for row in found.rows)
    for key, cells in found.settings().items():
        errors = [row["error"] for row in cells if row["error"]]
        line = [
            *map(told, key),
            str(len(cells) - len(errors)),
            *(entry(cells, name, numeric) for name in metrics),
        ]
        why = f"{len(errors)}: {errors[0][:100]}" if errors else ""
        body.append([*line, why] if any_failed else line)
    return grid([*head, "failed"] if any_failed else head, body)


def paired_markdown(found: Found, reference: Setting, rows: list[Row], metrics: Sequence[str]) -> str:
    """The differences from a setting, with the intervals over seeds of both."""
    shown = [name for name in metrics if name in numeric_columns(found)]
    body = []
    for row in rows:
        line = [told(row[name]) for name in found.names]
        for name in shown:
            interval = f" [{row[f'{name}_low']:.4g}, {row[f'{name}_high']:.4g}]" * (row[f"{name}_pairs"] > 1)
            line.append(f"{row[name]:+.4g}{interval}")
        body.append([*line, str(max((row[f"{name}_pairs"] for name in shown), default=0))])
    title = f"\nMore than with {label(reference)}, by pairs of one seed:\n\n"
    return title + grid([*found.names, *shown, "pairs"], body)


def write_csv(path: Path, rows: list[Row]) -> None:
    """A table for other tools, whole or not at all; what is not known is left empty."""
    import pandas

    write_text(path, pandas.DataFrame(rows).to_csv(index=False))


def write_all(workdir: Path, found: Found, metrics: Sequence[str], reference: Setting | None) -> str:
    """table.csv, summary.csv, table.md and, with a reference, paired.csv; returns the Markdown."""
    write_csv(workdir / "table.csv", found.rows)
    write_csv(workdir / "summary.csv", summarise(found))
    text = markdown(found, metrics)
    if reference is not None:
        rows = pair(found, typed(reference, found.names))
        write_csv(workdir / "paired.csv", rows)
        text += paired_markdown(found, reference, rows, metrics)
    write_text(workdir / "table.md", text)
    return text


def summary(found: Found, metrics: Sequence[str], best: str) -> Row:
    """The ablation in a flat object: how many cells, the best setting, and the means as metric__setting."""
    failed = sum(bool(row["error"]) for row in found.rows)
    counts = {"experiment": found.experiment, "num_cells": len(found.rows), "num_failed": failed}
    shown, means = [name for name in metrics if name in numeric_columns(found)], {}
    for key, cells in found.settings().items():
        told_key = ",".join(
            f"{name}={told(value)}" for name, value in zip(found.names, key, strict=True) if value is not None
        )
        for name in shown:
            mean = estimate(samples(cells, name)).mean
            means[f"{name}__{told_key}"] = mean if math.isfinite(mean) else None
    first = {key: value for key, value in means.items() if shown and key.startswith(f"{shown[0]}__")}
    known = {key.partition("__")[2]: value for key, value in first.items() if value is not None}
    choose = min if best == "least" else max
    return {
        **counts,
        "metric": metrics[0] if metrics else None,
        "best_setting": choose(known, key=known.__getitem__) if known else None,
        **means,
    }

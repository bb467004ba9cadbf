"""Any column of many runs against any other, with intervals over seeds; or their learning curves.

    python -m experiments.plot_runs --runs=runs/tau --x=tau --y=one_step_rmse --out=tau.png
    python -m experiments.plot_runs --runs=runs/tau,runs/gru --x=tau --y=rmse_at_16 --by=run --out=both.png
    python -m experiments.plot_runs --runs=runs/demo,runs/mine --curves=train_loss,valid_loss --out=loss.png

A run is a folder of an ablation, whose cells are the rows, or of any script here, which is one row: its flags
and the figures of its summary. The column `run` has the folders' names.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.ablation import records, tables
from experiments.ablation.tables import Row, refuse_missing
from experiments.frame.command import Command, main
from experiments.frame.flags import Given
from lmseq.config.knobs import knob
from lmseq.files import read_json
from lmseq.training.metrics import read_records


@dataclass(frozen=True)
class PlotOptions:
    """What is drawn, and where it is written."""

    runs: str = knob("", "folders of ablations or runs, separated by commas")
    x: str = knob("", "column along the horizontal axis")
    y: str = knob("", "columns of figures, separated by commas; a panel each")
    by: str = knob("", "columns, separated by commas; a curve for each combination of their values")
    curves: str = knob("", "instead of --x and --y: figures of metrics.jsonl, such as train_loss,valid_loss")
    log: Literal["auto", "none", "x", "y", "xy"] = knob("auto", "which axes are logarithmic")
    out: str = knob("", "the picture, FILE.png")
    workdir: str = knob("", "instead of --out: a folder, for runs.png in it")


def parts_of(text: str) -> list[str]:
    """The parts of a text that commas separate."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_run(folder: Path, must_be_finished: bool) -> list[Row]:
    """The rows of an ablation's folder, or the one of a run's. Raises ValueError for other folders.

    Of a run, what is plain in its config and its summary; only curves can be had of an unfinished one.
    """
    if (folder / records.LEDGER).exists():
        return ablation_rows(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no run and no ablation: it has no config.json")
    if not (folder / "summary.json").is_file() and must_be_finished:
        raise ValueError(f"{folder} is no finished run: it has no summary.json")
    row: Row = {}
    for path in (folder / "config.json", folder / "summary.json"):
        part = read_json(path) if path.exists() else {}
        if not isinstance(part, dict):
            raise ValueError(f"expected {path} to hold an object")
        row |= {name: value for name, value in part.items() if isinstance(value, str | int | float)}
    return [row | {"run": folder.name, "folder": folder}]


def ablation_rows(folder: Path) -> list[Row]:
    """A row for each cell of an ablation: the flags of all cells, the setting, the seed and the figures."""
    facts = read_json(folder / "ablation.json") if (folder / "ablation.json").exists() else {}
    fixed = facts.get("fixed", {}) if isinstance(facts, dict) else {}
    rows = []
    for record in records.read_ledger(folder).values():
        flags_given = fixed | record["setting"]
        row = {**record["figures"], **tables.typed(flags_given, list(flags_given)), "seed": record["seed"]}
        rows.append(row | {"run": folder.name, "folder": folder / "cells" / record["cell"]})
    if not rows:
        raise ValueError(f"no cell of {folder} is done yet")
    return rows


def read_rows(folders: Sequence[str], must_be_finished: bool) -> list[Row]:
    """The rows of all folders; ValueError for one that is missing or holds no run."""
    if not folders:
        raise ValueError("expected --runs=FOLDER,FOLDER,...")
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"there is no folder {folder}")
    return [row for folder in folders for row in read_run(Path(folder), must_be_finished)]


def compared(rows: list[Row], x: str, ys: list[str], by: list[str], log: str | None) -> list[Any]:
    """A panel for each y. Raises ValueError for columns that no row has, or that are not numbers."""
    from experiments.ablation.curves import panel_of

    there = sorted({name for row in rows for name, value in row.items() if value is not None} - {"folder"})
    for name in (x, *ys, *by):
        refuse_missing(name, there)
    panels = [panel_of(rows, x, y, by, log) for y in ys]
    for y, panel in zip(ys, panels, strict=True):
        if panel is None:
            raise ValueError(f"no run has both {x} and a number as {y}")
    return panels


def learning(rows: list[Row], names: list[str], by: list[str], log: str | None) -> list[Any]:
    """A panel for each figure of metrics.jsonl: a curve for each run, or the mean of those alike in `by`."""
    from experiments.ablation.curves import panel_of

    steps = []
    for row in rows:
        recorded = read_records(row["folder"] / "metrics.jsonl")
        cell = row["folder"].name if row["folder"].parent.name == "cells" else row["run"]
        fixed = {name: value for name, value in row.items() if name not in names}  # a summary has them too
        steps += [{**fixed, **record, "run": cell} for record in recorded]
    if not steps:
        raise ValueError("none of the runs has records of steps; of an ablation, cells with --separate have")
    there = sorted({name for row in steps for name, value in row.items() if tables.is_number(value)})
    for name in names:
        refuse_missing(name, there)
    for name in by:
        refuse_missing(name, sorted({name for row in steps for name in row}))
    panels = [panel_of(steps, "step", name, by or ["run"], log or "") for name in names]
    plain = [
        panel._replace(curves=[c._replace(style="-") for c in panel.curves]) for panel in panels if panel
    ]
    return [panel._replace(title=panel.ylabel) for panel in plain] if not by else plain


def act(options: PlotOptions, given: Given) -> int:
    """Read the runs, draw, print."""
    if bool(options.out) == bool(options.workdir):
        raise ValueError("expected --out=FILE.png or --workdir=DIR")
    out = Path(options.out) if options.out else Path(options.workdir) / "runs.png"
    if out.suffix != ".png":
        raise ValueError(f"expected --out to end in .png, got {out}")
    names, ys, by = parts_of(options.curves), parts_of(options.y), parts_of(options.by)
    if bool(names) == bool(options.x and ys) or (names and (options.x or ys)):
        raise ValueError("expected --x and --y, or --curves")
    log = {"auto": None, "none": ""}.get(options.log, options.log)
    rows = read_rows(parts_of(options.runs), must_be_finished=not names)
    panels = learning(rows, names, by, log) if names else compared(rows, options.x, ys, by, log)
    from lmseq import plotting

    out.parent.mkdir(parents=True, exist_ok=True)
    plotting.save_figure(plotting.draw_panels(panels), out)
    num_curves = sum(len(panel.curves) for panel in panels)
    print(json.dumps({"picture": str(out), "rows": len(rows), "curves": num_curves}))
    return 0


COMMAND = Command(__doc__, PlotOptions, act)

if __name__ == "__main__":
    main(COMMAND)

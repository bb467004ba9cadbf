"""Any column of many runs against any other, with intervals over seeds; or their learning curves.

    python -m experiments.plot_runs --runs=runs/tau --x=tau --y=one_step_rmse --out=tau.png
    python -m experiments.plot_runs --runs=runs/tau,runs/gru --x=tau --y=rmse_at_16 --by=run --out=both.png
    python -m experiments.plot_runs --runs=runs/demo,runs/mine --curves=train_loss,valid_loss --out=loss.png

A run is a folder of an ablation, whose cells are the rows, or of any script here, which is one row: its flags
and the figures of its summary. The column `run` has the folders' names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.frame.command import Command, main
from experiments.frame.flags import Given
from lmseq.config.knobs import knob
from lmseq.files import to_json


@dataclass(frozen=True)
class PlotOptions:
    """What is drawn, and where it is written."""

    runs: str = knob("", "folders of ablations or runs, separated by commas", is_path=True)
    x: str = knob("", "column along the horizontal axis")
    y: str = knob("", "columns of figures, separated by commas; a panel each")
    by: str = knob("", "columns, separated by commas; a curve for each combination of their values")
    curves: str = knob("", "instead of --x and --y: figures of metrics.jsonl, such as train_loss,valid_loss")
    log: Literal["auto", "none", "x", "y", "xy"] = knob("auto", "which axes are logarithmic")
    out: str = knob("", "the picture, FILE.png", is_path=True)
    workdir: str = knob("", "instead of --out: a folder, for runs.png in it", is_path=True)


def parts_of(text: str) -> list[str]:
    """The parts of a text that commas separate."""
    return [part.strip() for part in text.split(",") if part.strip()]


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
    from experiments.ablation import columns
    from lmseq import plotting

    rows = columns.read_rows(parts_of(options.runs), must_be_finished=not names)
    if names:
        panels = columns.learning(rows, names, by, log)
    else:
        panels = columns.compared(rows, options.x, ys, by, log)
    out.parent.mkdir(parents=True, exist_ok=True)
    plotting.save_figure(plotting.draw_panels(panels), out)
    num_curves = sum(len(panel.curves) for panel in panels)
    print(to_json({"picture": str(out), "rows": len(rows), "curves": num_curves}))
    return 0


COMMAND = Command(__doc__, PlotOptions, act)

if __name__ == "__main__":
    main(COMMAND)

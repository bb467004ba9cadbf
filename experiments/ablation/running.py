"""Running the cells of an ablation: many in one program where that can be, else each as a process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from experiments.ablation.design import TOGETHER, Cell, Design, label
from experiments.ablation.records import LEDGER, note, open_ledger, read_ledger, record_of
from experiments.frame.command import USER_ERRORS
from experiments.frame.console import say
from experiments.frame.processes import wait_for
from experiments.frame.start import prepare_jax
from experiments.frame.workdir import finished_summary
from lmseq.compiled import num_cores

Record = dict[str, Any]
BUSY = "another process is at work in"  # what a script says that finds its folder locked


def run_cells(
    design: Design,
    workdir: Path,
    progress: Callable[[dict[str, Record]], None],
    *,
    retry_failed: bool = False,
    keep_programs: bool = True,
) -> dict[str, Record]:
    """Run what the ledger lacks, and note each cell there when it is done; returns all records by name.

    `progress` is shown the records after every group. With `retry_failed`, cells that failed are run again.
    """
    done = read_ledger(workdir)
    if retry_failed:
        done = {name: record for name, record in done.items() if not record["error"]}
    num_cells = len(design.settings) * design.config.seeds
    if done:
        say(f"{len(done)} of {num_cells} cells are done already")
    with open_ledger(workdir / LEDGER, done.values()) as ledger:
        for cells, records in groups_to_run(design, workdir, done, keep_programs):
            begun = time.monotonic()
            for record in records:
                note(ledger, record)
                done[record["cell"]] = record
            told = "" if len(cells) == 1 else f" and {len(cells) - 1} more"
            errors = [done[cell.name]["error"] for cell in cells if done[cell.name]["error"]]
            remark = f", {len(errors)} failed: {errors[0]}" if errors else ""
            say(
                f"{len(done)}/{num_cells} cells  {label(cells[0].setting)} seed={cells[0].seed}"
                f"{told}, {time.monotonic() - begun:.1f} s{remark}"
            )
            progress(done)
    return done


def groups_to_run(
    design: Design, workdir: Path, done: dict[str, Record], keep_programs: bool
) -> Iterator[tuple[list[Cell], Iterator[Record]]]:
    """Cells that are missing, in the groups that they are run in, with what runs them."""
    if not can_be_together(design):
        for cell in design.cells():
            if cell.name not in done:
                yield [cell], run_apart(design, [cell], workdir)
        return
    prepare_programs(keep_programs)
    from experiments.ablation import together

    for group in together.groups(design):
        missing = [number for number, cell in enumerate(group.cells) if cell.name not in done]
        cells = [group.cells[number] for number in missing]
        if cells and group.configs is None:
            yield cells, run_apart(design, cells, workdir)
        elif cells:
            known = [group.configs[number] for number in missing]
            yield cells, run_group(design, together.Group(cells, known), workdir)


@cache
def prepare_programs(keep_programs: bool) -> None:
    """Prepare JAX, once, for trainings in this process, with a device for each core."""
    # A part of an accelerator's memory is left to cells that run as processes.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    prepare_jax(num_cores(), keep_programs)


def can_be_together(design: Design) -> bool:
    """Whether some cells may be trained in one program: only then JAX is needed here."""
    return design.experiment in TOGETHER and not design.config.separate


def run_group(design: Design, group: Any, workdir: Path) -> Iterator[Record]:
    """The records of cells that are trained together.

    Those whose loss is not finite are records that say so, and the others are trained again without them.
    Where anything else fails, each cell is run as its script, which says what is wrong with it.
    """
    from experiments.ablation import together
    from lmseq.training.ensemble import NonFiniteMembersError

    done, begun = set(), time.monotonic()
    try:
        for record in together.run_together(group):
            done.add(record["cell"])
            yield record
    except NonFiniteMembersError as error:
        bad = {place: step for place, step in error.steps.items() if place < len(group.cells)}
        for place, step in bad.items():
            why = f"the loss or its gradient is not finite at step {step}: lower learning_rate or clip_norm"
            spent = (time.monotonic() - begun) / len(group.cells)
            yield record_of(group.cells[place], {}, why, spent)
        rest = [place for place in range(len(group.cells)) if place not in bad]
        if rest:
            left = [group.cells[place] for place in rest], [group.configs[place] for place in rest]
            yield from run_group(design, together.Group(*left), workdir)
    except (*USER_ERRORS, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"not in one program: {' '.join(str(error).split())[:200]}")
        yield from run_apart(design, [cell for cell in group.cells if cell.name not in done], workdir)


def run_apart(design: Design, cells: list[Cell], workdir: Path) -> Iterator[Record]:
    """The records of cells, each run as its script, in the folder `cells` of the ablation's."""
    for cell in cells:
        begun = time.monotonic()
        figures, error = run_script(design, cell, workdir / "cells" / cell.name)
        yield record_of(cell, figures, error, time.monotonic() - begun)


def command_of(design: Design, cell: Cell, folder: Path) -> list[str]:
    """The command line of a cell."""
    flags = cell.flags | ({"seed": str(cell.seed)} if design.has_seed else {})
    given = [f"--{name}={value}" for name, value in {**flags, "workdir": str(folder)}.items()]
    return [sys.executable, "-m", design.experiment.module, *given]


def run_script(design: Design, cell: Cell, folder: Path) -> tuple[dict[str, Any], str | None]:
    """Run, or go on with, a cell as a process; the figures of its summary, or none and why.

    What it says is kept beside its folder, in NAME.log. A signal that would end this process is handed on,
    so that the cell saves itself first. A process left behind by an ablation that was killed is waited for.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{cell.name}.log"
    while True:
        with log.open("ab") as file:
            before = file.tell()
            # A group of its own: from Ctrl-C it would else get the signal twice, which ends it at once.
            command = command_of(design, cell, folder)
            status = wait_for(subprocess.Popen(command, stdout=file, stderr=file, process_group=0))
        text = log.read_bytes()[before:].decode(errors="replace")
        lines = text.splitlines() or ["it said nothing"]
        if status != 2 or BUSY not in text:
            break
        say(f"waiting: {lines[-1].removeprefix('error: ')}")
        time.sleep(5.0)
    finished = finished_summary(folder)
    if finished is not None and status in (0, 1):  # 1: a claim that fails has figures too
        return json.loads(finished), None
    how = f"ended by signal {-status}: " if status < 0 else ""
    return {}, how + lines[-1].removeprefix("error: ")

"""What is known of the cells that are done: a line of JSON each."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from experiments.ablation.design import Cell
from lmseq.files import to_json, write_text

LEDGER, RUNGS = "cells.jsonl", "rungs.jsonl"


def read_ledger(workdir: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder by cell; lines that are none are left out, the last of a cell counts."""
    fields = {"cell", "setting", "seed", "figures", "error"}
    return {record["cell"]: record for record in read_lines(workdir / LEDGER, fields)}


def read_lines(path: Path, fields: set[str]) -> list[dict[str, Any]]:
    """The objects of a ledger that have the fields; lines that are none are left out."""
    found = []
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and fields <= set(record):
            found.append(record)
    return found


def read_rungs(workdir: Path) -> list[dict[str, Any]]:
    """What a search's ledger knows: a record for each program of each rung."""
    fields = {"rung", "steps", "begin", "trials", "settings", "losses", "diverged", "seconds"}
    return read_lines(workdir / RUNGS, fields)


def open_ledger(path: Path, kept: Iterable[dict[str, Any]]) -> TextIO:
    """The ledger to append to, rewritten so that it holds whole lines only."""
    write_text(path, "".join(to_json(record) + "\n" for record in kept))
    return path.open("a", encoding="utf-8")


def note(ledger: TextIO, record: dict[str, Any]) -> None:
    """Append one record and flush it."""
    ledger.write(to_json(record) + "\n")
    ledger.flush()


def record_of(cell: Cell, figures: dict[str, Any], error: str | None, seconds: float) -> dict[str, Any]:
    """What the ledger says of a cell: the plain ones of its figures, or why it has none."""
    plain = {name: value for name, value in figures.items() if isinstance(value, str | int | float | None)}
    identity = {"cell": cell.name, "setting": cell.setting, "seed": cell.seed}
    return {**identity, "figures": plain, "error": error, "seconds": seconds}

"""The stages of a count model's run: from marked sentences to tables, and all that is said of them."""

import shutil
import time
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from experiments.counts.loading import load_counted
from experiments.counts.making import make, save
from experiments.frame.console import say
from experiments.frame.start import peak_memory
from lmseq.config import counts as counts_config
from lmseq.config.counts import NgramConfig
from lmseq.ngram.corpus import Counted


class PreparedCounts(NamedTuple):
    """The text that is counted, and the seconds that reading it took."""

    counted: Counted
    reading: float


def prepare(config: NgramConfig, given: Set[str]) -> PreparedCounts:
    """Read, split and number the text."""
    begun = time.monotonic()
    return PreparedCounts(load_counted(config.text, given), time.monotonic() - begun)


# So many tokens are counted in less time than the modules take, which keep NumPy waiting for Python's lock.
FEW_TOKENS = 4_000_000


def _import_report() -> ModuleType:
    """What pictures and pages need: a second's work, beside that of sorting a long text."""
    from experiments.counts import report

    return report


def run(config: NgramConfig, workdir: Path, prepared: PreparedCounts) -> dict[str, Any]:
    """Count, estimate, save, score, compare orders, draw; the summary."""
    counted, memory = prepared.counted, counts_config.memory_bytes(config.count)
    scratch = workdir / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was interrupted
    try:
        with ThreadPoolExecutor(1) as beside:
            is_long = counted.streams["train"].size > FEW_TOKENS
            early = beside.submit(_import_report) if is_long else None
            made = make(config, counted, scratch if memory else None)
            report = early.result() if early else _import_report()
            spent = {"reading": prepared.reading, **made.seconds}
            to_tables = sum(spent.values())
            saved = beside.submit(save, workdir, counted, made.tables)
            found = report.figures(made.tables, counted)
            text = report.read_by(config, counted, made.tables, found)
            spent["saving"] = saved.result()
        say("   ".join(f"{name} {each:.2f} s" for name, each in spent.items()))
        rows = report.by_order(config, counted, made, found, scratch if memory else None)
        report.draw(config, workdir, counted, rows)
        if config.count.write_arpa:
            report.write_arpa_file(workdir, counted, made.tables)
        summed = {
            **report.summary(config, counted, made, rows),
            **found,
            **{f"seconds_{name}": each for name, each in spent.items()},
            "seconds_to_tables": to_tables,
            "peak_memory_bytes": peak_memory(),
        }
        report.write_page(config, workdir, counted, text, summed)
        return summed
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

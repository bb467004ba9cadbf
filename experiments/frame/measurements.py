"""Measurements one after the other, each noted when it is done, so that a run that was stopped goes on."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.frame.console import say
from experiments.frame.start import seconds
from lmseq.training.metrics import MetricsWriter, read_records

Unit = dict[str, Any]  # what distinguishes one measurement from the others: model, condition, seed


def measured(
    workdir: Path, units: Sequence[Unit], measure: Callable[[Unit], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each unit with its figures and `seconds`, in order; what is recorded already is not measured again.

    What is recorded as null, which stands for infinite or undefined, is NaN.
    """
    recorded = read_records(workdir / "metrics.jsonl")
    writer = MetricsWriter(workdir, len(recorded))
    try:
        quiet = not sys.stderr.isatty()
        for number, unit in enumerate(tqdm(units, mininterval=1.0, disable=quiet), start=1):
            if number <= len(recorded):
                yield _with_nan(recorded[number - 1])
                continue
            begun = seconds()
            record = {**unit, **measure(unit)}
            record["seconds"] = seconds() - begun
            writer.write(number, record)
            if quiet:
                told = " ".join(f"{name}={value}" for name, value in unit.items())
                say(f"measured {number}/{len(units)}  {told}  {seconds():.1f} s")
            yield record
    finally:
        writer.close()


def _with_nan(recorded: Any) -> Any:
    """The same with NaN for null."""
    match recorded:
        case None:
            return math.nan
        case dict():
            return {name: _with_nan(each) for name, each in recorded.items()}
        case list():
            return [_with_nan(each) for each in recorded]
        case _:
            return recorded

"""What the scripts that measure share: intervals, verdicts, a ledger that resumes."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from tqdm import tqdm

from experiments.frame.console import say
from experiments.frame.start import seconds
from lmseq.training.metrics import MetricsWriter, read_records

Unit = dict[str, Any]  # what distinguishes one measurement from the others: model, condition, seed


def measured(
    workdir: Path, units: Sequence[Unit], measure: Callable[[Unit], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each unit with its figures and `seconds`, in order; what is recorded already is not measured again."""
    recorded = read_records(workdir / "metrics.jsonl")
    writer = MetricsWriter(workdir, len(recorded))
    try:
        quiet = not sys.stderr.isatty()
        for number, unit in enumerate(tqdm(units, mininterval=1.0, disable=quiet), start=1):
            if number <= len(recorded):
                yield recorded[number - 1]
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


class Interval(NamedTuple):
    """A mean over seeds and its two-sided 95 % confidence interval (Student 1908)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interval(samples: Sequence[float]) -> Interval:
    """The interval of two samples or more; ValueError for fewer."""
    if len(samples) < 2:
        raise ValueError(f"expected at least two seeds for an interval, got {len(samples)}")
    mean, error = float(np.mean(samples)), float(stats.sem(samples))
    half = error * float(stats.t.ppf(0.975, len(samples) - 1))
    return Interval(mean, mean - half, mean + half)


def flat(name: str, found: Interval) -> dict[str, float]:
    """An interval as entries of a summary."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


class Check(NamedTuple):
    """What must lie where for a claim to hold: an interval, between `low` and `high`."""

    what: str
    found: Interval
    low: float = -math.inf
    high: float = math.inf

    @property
    def verdict(self) -> str:
        """`holds` of an interval that lies inside, `fails` of one that lies outside, else `undecided`."""
        if self.low <= self.found.low and self.found.high <= self.high:
            return "holds"
        # Not `above or below`: what is not a number fails too.
        return "undecided" if self.found.low <= self.high and self.low <= self.found.high else "fails"

    def record(self) -> dict[str, Any]:
        """The check as JSON has it: None for no bound."""
        bounds = {"at_least": self.low, "at_most": self.high}
        return {
            "what": self.what,
            **self.found._asdict(),
            **{name: bound if math.isfinite(bound) else None for name, bound in bounds.items()},
            "verdict": self.verdict,
        }


def exact(value: float) -> Interval:
    """A figure without uncertainty, such as one over all cases there are."""
    return Interval(value, value, value)


def verdict(checks: Sequence[Check]) -> str:
    """Of a claim: it fails with its first check that fails, and is undecided with one that is."""
    found = {check.verdict for check in checks}
    return next((each for each in ("fails", "undecided") if each in found), "holds")


def judged(checks: Sequence[Check]) -> dict[str, Any]:
    """The verdict with what it was computed from, for a summary; says each check on a line."""
    for check in checks:
        bounds = [f">= {check.low:.4g}"] * math.isfinite(check.low)
        bounds += [f"<= {check.high:.4g}"] * math.isfinite(check.high)
        say(f"{check.verdict:<10}{check.what}: {check.found}, expected {' and '.join(bounds)}")
    return {"verdict": verdict(checks), "checks": [check.record() for check in checks]}

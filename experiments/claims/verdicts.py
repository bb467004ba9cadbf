"""The verdict of a claim, computed from intervals: `holds`, `fails` or `undecided`."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.frame.console import say
from experiments.frame.intervals import Interval


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


def verdict(checks: Sequence[Check]) -> str:
    """Of a claim: it fails with its first check that fails, and is undecided with one that is."""
    found = {check.verdict for check in checks}
    return next((each for each in ("fails", "undecided") if each in found), "holds")


def conclude(checks: Sequence[Check]) -> dict[str, Any]:
    """The verdict with what it was computed from, for a summary; says each check on a line."""
    for check in checks:
        bounds = [f">= {check.low:.4g}"] * math.isfinite(check.low)
        bounds += [f"<= {check.high:.4g}"] * math.isfinite(check.high)
        say(f"{check.verdict:<10}{check.what}: {check.found}, expected {' and '.join(bounds)}")
    return {"verdict": verdict(checks), "checks": [check.record() for check in checks]}

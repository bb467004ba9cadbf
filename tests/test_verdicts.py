"""Verdicts of made-up intervals."""

import json
import math

import pytest

from experiments.claims.verdicts import Check, conclude, verdict
from experiments.frame.intervals import Interval, exact, interval


@pytest.mark.parametrize(
    "found, bounds, expected",
    [
        (Interval(1.0, 0.5, 1.5), {"low": 0.5}, "holds"),
        (Interval(1.0, 0.5, 1.5), {"low": 0.4, "high": 1.6}, "holds"),
        (Interval(1.0, 0.5, 1.5), {"low": 0.6}, "undecided"),
        (Interval(1.0, 0.5, 1.5), {"high": 1.4}, "undecided"),
        (Interval(1.0, 0.5, 1.5), {"low": 0.6, "high": 1.4}, "undecided"),
        (Interval(1.0, 0.5, 1.5), {"low": 1.6}, "fails"),
        (Interval(1.0, 0.5, 1.5), {"high": 0.4}, "fails"),
        (exact(0.0), {"low": 0.0}, "holds"),
        (exact(-1e-9), {"low": 0.0}, "fails"),
        (exact(math.nan), {"low": 0.0}, "fails"),
        (exact(math.inf), {"high": 1.0}, "fails"),
    ],
)
def test_verdict_of_an_interval(found, bounds, expected):
    assert Check("a figure", found, **bounds).verdict == expected


def test_a_claim_holds_with_all_of_its_checks():
    holds, undecided, fails = (
        Check(name, Interval(0.0, -1.0, 1.0), low=low)
        for name, low in (("holds", -2.0), ("undecided", 0.0), ("fails", 2.0))
    )
    assert verdict([holds, holds]) == "holds"
    assert verdict([holds, undecided]) == "undecided"
    assert verdict([undecided, fails, holds]) == "fails"


def test_what_is_judged_can_be_written_as_json(capsys):
    found = conclude([Check("a figure", interval([1.0, 2.0, 3.0]), low=0.0, high=math.inf)])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["checks"][0]["at_least"] == 0.0 and found["checks"][0]["at_most"] is None
    assert "a figure: 2 [" in capsys.readouterr().err
    assert found["checks"][0]["verdict"] == "undecided", "2 +- 2.48 reaches below zero"


def test_interval_is_students():
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3))
    with pytest.raises(ValueError, match="two seeds"):
        interval([1.0])

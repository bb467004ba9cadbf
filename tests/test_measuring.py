"""Verdicts of made-up intervals, and trainings of many seeds on streams of their own."""

import json
import math
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims.verdicts import Check, conclude, verdict
from experiments.frame.intervals import Interval, exact, interval
from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import sequential_partitioning
from lmseq.models.build import build_model


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


def test_members_learn_from_streams_of_their_own():
    """Each member's stream is of one token; another member's token it has never seen."""
    model = build_model(ModelConfig(hidden_size=8), 3)
    train = TrainConfig(learning_rate=0.05, num_train_steps=120, warmup_steps=5, steps_per_dispatch=30)
    streams = [np.full(200, token, np.int32) for token in (1, 2)]
    plan_of = partial(sequential_partitioning, 200, 8, 4)
    fitted = fit_members(model, train, (5, 9), streams, plan_of, 4, 8)
    for token, params in zip((1, 2), fitted, strict=True):
        carry = model.update(params, model.init_carry(params, 1), jnp.array([token]))
        log_probs = model.readout(params, carry)[0]
        assert int(np.argmax(log_probs)) == token and np.exp(log_probs[token]) > 0.8

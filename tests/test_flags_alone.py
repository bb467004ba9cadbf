"""Every flag by itself: whatever is wrong with a value is said by the name of the flag that was given."""

import dataclasses
import re
from functools import cache
from typing import get_args

import pytest
from absl import flags

from experiments import ablate
from experiments.ablation.design import EXPERIMENTS
from experiments.frame.experiment import call_from_texts
from lmseq.config import knobs
from lmseq.data import texts

SMALL_AND_LARGE = {
    bool: ("true", "false"),
    int: ("0", "1", "20", "60000", "2000000000"),
    float: ("0", "1e-6", "0.5", "1", "1e30"),
}
ALONE = [
    (experiment, knob.name, value)
    for experiment in (*EXPERIMENTS, ablate.EXPERIMENT)
    for section in knobs.sections(experiment.config).values()
    for knob in dataclasses.fields(section)
    if knob.name not in experiment.left_out
    for value in get_args(knob.type) or SMALL_AND_LARGE.get(knob.type, ())
]
NEEDED = {
    "mix_models": {"runs": "a,b"},
    "average": {"runs": "a,b"},
    "ablate": {"sweep": "seed=1"},
}  # without which nothing can be done
PREPARED = {"train_lm", "train_ngram", "predict_series", "compare_objectives"}
# Series of so many points take seconds to make, and devices cannot be added to a process.
LEFT_OUT = {("num_points", "2000000000"), ("host_devices", "20"), ("host_devices", "1000")}


@pytest.fixture
def texts_kept(monkeypatch):
    """Texts of equal settings are read once."""
    monkeypatch.setattr(texts, "load_texts", LOAD)


LOAD = cache(texts.load_texts)


def test_there_is_something_to_try():
    assert len(ALONE) > 1000 and {experiment.name for experiment, _, _ in ALONE} > PREPARED


@pytest.mark.parametrize("experiment", (*EXPERIMENTS, ablate.EXPERIMENT), ids=lambda each: each.name)
def test_a_flag_alone_is_taken_or_named(experiment, texts_kept):
    unnamed = []
    for of, name, value in ALONE:
        if of is not experiment or (name, value) in LEFT_OUT:
            continue
        try:
            call = call_from_texts(experiment, NEEDED.get(experiment.name, {}) | {name: value})
            if experiment.name in PREPARED:
                experiment.prepare(call)
        except (ValueError, flags.Error) as error:
            if not re.search(rf"\b{name}\b", str(error)):
                unnamed.append(f"--{name}={value}: {error}")
    assert not unnamed

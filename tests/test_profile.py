"""Traces of some steps: what is in them, and that a training computes the same without."""

import gzip
import json

import jax
import numpy as np
import pytest

from experiments.frame import show
from experiments.frame.profile import DRAWN, ProfileOptions, read_steps
from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.models.build import build_model
from lmseq.training.job import Batches, Job
from tests.scripts import refusal

TRAIN = TrainConfig(
    num_train_steps=12, warmup_steps=2, steps_per_dispatch=3, checkpoint_every=6, eval_every=6
)


@pytest.fixture(scope="module")
def job():
    model = build_model(ModelConfig(model="rnn", hidden_size=4), 5)
    stream = np.random.default_rng(0).integers(0, 5, 400).astype(np.int32)
    return Job(model, stream, TRAIN, Batches(8, 5))


def traced(folder) -> list[int]:
    """The first steps of the dispatches in the trace of a folder."""
    (path,) = folder.rglob(DRAWN)
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    assert any("ThunkExecutor" in event.get("name", "") for event in events)  # what XLA ran
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "dispatch")


def test_dispatches_that_hold_the_steps_are_traced_and_compute_the_same(job, tmp_path, capsys):
    plain = show.run(job, "a model", "token")
    found = show.run(job._replace(workdir=tmp_path), "a model", "token", range(4, 7))
    assert traced(tmp_path) == [3, 6]
    assert "steps 3:9 traced: " in capsys.readouterr().err
    for one, other in zip(jax.tree.leaves(plain.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_training_that_stops_has_its_trace_as_far_as_it_came(job, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(show.Lines, "dispatched", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        show.run(job._replace(workdir=tmp_path), "a model", "token", range(0, 12))
    assert traced(tmp_path) == [0]
    assert "steps 0:3 traced: " in capsys.readouterr().err


def test_a_trace_that_cannot_be_written_loses_no_training(job, tmp_path, capsys):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "plugins").write_text("a file where the folder of traces goes")
    found = show.run(job._replace(workdir=tmp_path), "a model", "token", range(4, 7))
    assert not found.stopped and found.records[-1]["step"] == 12
    assert "no trace of steps 3:9, which cannot be written: " in capsys.readouterr().err


def test_steps_that_were_trained_before_are_named(job, tmp_path, capsys):
    there = job._replace(workdir=tmp_path)
    show.run(there, "a model", "token")
    show.run(there, "a model", "token", range(2, 5))
    assert "no trace: steps 2 to 5 were trained before" in capsys.readouterr().err
    assert not list(tmp_path.rglob(DRAWN))


@pytest.mark.parametrize("text, steps", [("", range(0)), ("3:5", range(3, 5)), ("0:12", range(12))])
def test_steps_are_read(text, steps):
    assert read_steps(ProfileOptions(text), TRAIN) == steps


@pytest.mark.parametrize("text", ["3", "5:3", "3:3", "0:13", "-1:3", "a:b", "1:2:3", " 1:2"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="FIRST:END with FIRST below END and END at most num_train_steps=12"):
        read_steps(ProfileOptions(text), TRAIN)


@pytest.mark.parametrize(
    "script, flags, told",
    [
        ("train_lm", "--corpus={text} --num_train_steps=100 --profile_steps=90:101", "END at most"),
        ("predict_series", "--model=linear --profile_steps=1:2", "linear is fitted at once: leave it out"),
    ],
)
def test_scripts_refuse_what_cannot_be_traced(script, flags, told, tmp_path, scripts):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * 100, encoding="utf-8")
    _, last = refusal(
        scripts.attempt(script, f"--workdir={tmp_path / 'run'}", *flags.format(text=text).split())
    )
    assert told in last

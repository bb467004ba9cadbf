"""A training as scripts show it: what a signal does, and what it costs to come late."""

import os
import signal

import pytest

from experiments.frame import show
from experiments.frame.command import StoppedError
from lmseq.config.training import TrainConfig
from lmseq.training.fit import Trained
from lmseq.training.job import Job


@pytest.mark.parametrize("records", [[], [{"step": 3}]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_last_checkpoint_is_written_stops_the_run(monkeypatch, capsys, records, number):
    """The loop has ended then, and does not look any more: what follows, scoring and pictures, takes long."""

    def train(job, **callbacks):
        os.kill(os.getpid(), number)
        return Trained({}, records, None, False, 0.0, None, None)

    before = signal.getsignal(number)
    monkeypatch.setattr(show, "train", train)
    with pytest.raises(StoppedError) as stopped:
        show.run(Job(None, None, TrainConfig(num_train_steps=5, warmup_steps=1)), "a model", "char")
    assert stopped.value.status == 128 + number
    assert f"stopped at step {3 if records else 5}, saved" in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_without_a_signal_the_training_is_returned(monkeypatch):
    trained = Trained({}, [], None, False, 0.0, None, None)
    monkeypatch.setattr(show, "train", lambda job, **callbacks: trained)
    assert show.run(Job(None, None, TrainConfig()), "a model", "char") is trained

"""Runs that go on to more steps, and for a number of epochs: what comes of it, to the bit."""

import dataclasses
import json
import math
import shutil
import signal
import time
from fractions import Fraction
from pathlib import Path
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.predict_series import of_length as series_of_length
from lmseq.config import language_model
from lmseq.config.language_model import CourseConfig, LanguageModelConfig, ModelConfig, of_epochs, of_length
from lmseq.config.series import SeriesConfig
from lmseq.config.training import ENDLESS, TrainConfig
from lmseq.data.partition import epoch_plan
from lmseq.models.build import build_model
from lmseq.runs import load_run
from lmseq.training import checkpoint
from lmseq.training.beginning import init_state
from lmseq.training.checkpoint import Progress, steps_kept
from lmseq.training.lengthening import turn_back, turning_point
from lmseq.training.optimizer import make_schedule
from tests.scripts import SMALL, Made, config_of, figures, records, refusal, summary_of

TEXT = "".join(topics.values())
FLAGS = [*SMALL, "--batch_size=8", "--eval_every=20", "--checkpoint_every=20", "--schedule=constant"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, scripts) -> Made:
    root = tmp_path_factory.mktemp("made")
    (root / "text.txt").write_text(TEXT[:12_000], encoding="utf-8")
    return Made(scripts, root, [f"--corpus={root / 'text.txt'}", *FLAGS])


def assert_same(workdir: Path, unbroken: Path) -> None:
    """Config, records, figures, and parameters by their digest: the last and the best."""
    assert figures(summary_of(workdir)) == figures(summary_of(unbroken))
    assert records(workdir) == records(unbroken)
    assert config_of(workdir) == config_of(unbroken)
    best, expected = load_run(workdir, "best"), load_run(unbroken, "best")
    assert best.step == expected.step and checkpoint.digest(best.params) == checkpoint.digest(expected.params)


# To more steps


def test_a_finished_run_is_lengthened_to_the_bit(tmp_path, scripts, made):
    workdir, flags = f"--workdir={tmp_path / 'run'}", [*made.flags, "--num_train_steps=40"]
    shutil.copytree(made(40), tmp_path / "run")
    done = scripts.run("train_lm", workdir, *flags, "--extend=70")
    assert done.returncode == 0, done.stderr
    assert "40 steps become 70, from step 40 on" in done.stderr
    assert_same(tmp_path / "run", made(70))
    for same in ([*flags, "--extend=70"], [*made.flags, "--num_train_steps=70"]):
        again = scripts.attempt("train_lm", workdir, *same)
        assert json.loads(again.stdout) == summary_of(tmp_path / "run")
    _, last = refusal(scripts.attempt("train_lm", workdir, *flags))
    assert "num_train_steps: 70 -> 40" in last
    _, last = refusal(scripts.attempt("train_lm", workdir, *flags, "--extend=60"))
    assert "above the 70 steps" in last and "got 60" in last


def killed_at(process, condition) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end and not condition():
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_the_same_command_goes_on_after_kills(tmp_path, scripts, made):
    """Killed when the summary has gone, when the config has changed, and when a new checkpoint is there.

    The run had ended between evaluations: what a longer one would not have recorded is taken back.
    """
    workdir = tmp_path / "run"
    shutil.copytree(made(50), workdir)
    command = ["train_lm", f"--workdir={workdir}", *made.flags, "--num_train_steps=50", "--extend=150"]
    for condition in (
        lambda: not (workdir / "summary.json").exists(),
        lambda: config_of(workdir)["num_train_steps"] == 150,
        lambda: max(steps_kept(workdir)) > 60,
    ):
        killed_at(scripts.start(*command), condition)
    scripts.summary(*command)
    assert_same(workdir, made(150))


def test_a_stopped_run_is_lengthened(tmp_path, scripts, made):
    workdir, flags = tmp_path / "run", [*made.flags, "--num_train_steps=149"]
    process = scripts.start("train_lm", f"--workdir={workdir}", *flags)
    while process.poll() is None and not steps_kept(workdir):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM and not (workdir / "summary.json").exists()
    scripts.summary("train_lm", f"--workdir={workdir}", *flags, "--extend=150")
    assert_same(workdir, made(150))


def test_a_series_run_is_lengthened(tmp_path, scripts):
    flags = "--series=noisy_sine --num_points=150 --model=gru --hidden_size=4 --preset=one_step".split()
    flags += "--schedule=inverse --steps_per_dispatch=5 --eval_every=10 --checkpoint_every=10".split()
    whole, longer = (f"--workdir={tmp_path / name}" for name in ("whole", "longer"))
    expected = scripts.summary("predict_series", whole, *flags, "--num_train_steps=30")
    scripts.summary("predict_series", longer, *flags, "--num_train_steps=15")
    found = scripts.summary("predict_series", longer, *flags, "--num_train_steps=15", "--extend=30")
    assert figures(found) == figures(expected)
    assert records(tmp_path / "longer") == records(tmp_path / "whole")


@pytest.mark.parametrize("schedule", TrainConfig.__annotations__["schedule"].__args__)
def test_which_schedules_have_no_end(schedule):
    """The learning rates of the first steps are the same, however many follow, or extend refuses."""
    config = language_model.check(
        LanguageModelConfig(train=TrainConfig(schedule=schedule, num_train_steps=100, decay_steps=1000))
    )
    longer = dataclasses.replace(config.train, num_train_steps=200)
    rates = [[float(make_schedule(each)(step)) for step in range(100)] for each in (config.train, longer)]
    assert (rates[0] == rates[1]) == (schedule in ENDLESS)
    if schedule in ENDLESS:
        assert of_length(config, 200) == dataclasses.replace(config, train=longer)
    else:
        with pytest.raises(ValueError, match=f"under {schedule} learning rates depend on .*=200 and another"):
            of_length(config, 200)


def test_what_else_has_an_end():
    """Own predictions are fed back the more, the nearer the end; what is fitted at once has no steps."""
    config = SeriesConfig(train=TrainConfig(schedule="constant", num_train_steps=100))
    assert series_of_length(config, 200).train.num_train_steps == 200
    sampled = dataclasses.replace(config.objective, objective="scheduled_sampling")
    with pytest.raises(ValueError, match="not for objective scheduled_sampling"):
        series_of_length(dataclasses.replace(config, objective=sampled), 200)
    model = dataclasses.replace(config.model, model="persistence")
    with pytest.raises(ValueError, match="persistence is fitted at once"):
        series_of_length(dataclasses.replace(config, model=model), 200)


MODEL = build_model(ModelConfig(model="gru", hidden_size=4), 7)
TRAIN = TrainConfig(schedule="constant", num_train_steps=50, eval_every=20)
FRESH = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(lambda key: init_state(key, MODEL, TRAIN, 2), jax.random.key(0)),
)


def save_all(workdir: Path, best_of: dict[int, int | None]) -> None:
    """A checkpoint for each step, with the step that was the best as of then."""
    with checkpoint.open_manager(workdir, 10) as manager:
        for step, best in best_of.items():
            checkpoint.save(manager, step, FRESH, Progress(best_step=best))


@pytest.mark.parametrize(
    "eval_every, best_of, expected",
    [
        (20, {20: 20, 40: 40, 50: 50}, 40),
        (20, {20: 20, 40: 20, 50: 50}, 40),
        (20, {40: 20, 50: 40}, None),  # the best as of step 40 has gone
        (20, {50: 50}, None),
        (20, {20: 20, 45: 20}, 45),  # stopped
        (25, {25: 25, 50: 50}, 50),
        (25, {25: 25, 50: 25}, 50),
        (20, {40: None, 50: None}, 40),  # nothing was evaluated
        (20, {}, 0),
    ],
)
def test_from_where_a_run_is_lengthened(tmp_path, eval_every, best_of, expected):
    save_all(tmp_path, best_of)
    (tmp_path / "summary.json").write_text("{}")
    train = dataclasses.replace(TRAIN, eval_every=eval_every)
    if expected is None:
        with pytest.raises(ValueError, match="cannot be extended bit for bit: it ended at step 50"):
            turn_back(tmp_path, train)
        assert steps_kept(tmp_path) == list(best_of) and (tmp_path / "summary.json").exists()
        return
    assert turning_point(tmp_path, train) == turn_back(tmp_path, train) == expected
    assert steps_kept(tmp_path) == [step for step in best_of if step <= expected]
    assert not (tmp_path / "summary.json").exists()


# For a number of epochs


@given(st.floats(1e-3, 50), st.integers(1, 900))
def test_the_steps_of_epochs(num_epochs, num_batches):
    """The least number of steps in which all batches of so many epochs fit."""
    config = language_model.check(LanguageModelConfig(course=CourseConfig(num_epochs=num_epochs)))
    steps = of_epochs(config, num_batches).train.num_train_steps
    assert steps - 1 < Fraction(repr(num_epochs)) * num_batches <= steps


def test_a_tenth_of_thirty_batches_is_three():
    config = language_model.check(LanguageModelConfig(course=CourseConfig(num_epochs=0.1)))
    assert [of_epochs(config, n).train.num_train_steps for n in (30, 31, 70)] == [3, 4, 7]


def test_a_run_of_epochs(tmp_path, scripts, made):
    """That of so many steps; its folder and its summary say both, until it is lengthened."""
    workdir, run = f"--workdir={tmp_path / 'run'}", tmp_path / "run"
    flags = [*made.flags, "--num_epochs=0.47"]
    summary = scripts.summary("train_lm", workdir, *flags)
    num_tokens = json.loads((run / "corpus.json").read_text())["train"]["tokens"]
    num_batches = epoch_plan("sequential", num_tokens, 16, 8, 0, 0).num_batches
    assert summary["num_train_steps"] == math.ceil(0.47 * num_batches) == 40
    assert figures(summary) == figures(summary_of(made(40))) | {"num_epochs": 0.47}
    assert records(run) == records(made(40))
    assert config_of(run) == config_of(made(40)) | {"num_epochs": 0.47}
    assert json.loads(scripts.attempt("train_lm", workdir, *flags).stdout) == summary
    scripts.summary("train_lm", workdir, *flags, "--extend=70")
    assert_same(run, made(70))


def test_the_warm_up_of_few_epochs():
    """As long as of so many steps: a tenth of few under cosine."""
    config = language_model.check(LanguageModelConfig(course=CourseConfig(num_epochs=0.5)))
    settled = of_epochs(config, 60)
    expected = LanguageModelConfig(train=TrainConfig(num_train_steps=30))
    assert settled.train == language_model.check(expected).train and settled.train.warmup_steps == 3
    assert language_model.check(settled) == settled
    with pytest.raises(ValueError, match="expected num_epochs of at most"):
        of_epochs(dataclasses.replace(config, course=CourseConfig(num_epochs=1e30)), 60)


# What is refused


BAD = [
    ("--num_epochs=1", "--num_epochs and --num_train_steps"),
    ("--num_epochs=-1", "num_epochs"),
    ("--extend=0", "extend of at least 1, got 0"),
    ("--extend=100", "expected a run to extend in {new}, there is none"),
    ("--extend=100 --schedule=cosine", "under cosine learning rates depend on num_train_steps"),
    ("--extend=100 --schedule=inverse --workdir={run}", "schedule: 'constant' -> 'inverse'"),
    ("--extend=40 --num_train_steps=30 --hidden_size=17 --workdir={run}", "hidden_size: 16 -> 17"),
    ("--extend=30 --num_train_steps=20 --workdir={run}", "above the 40 steps"),
]


@pytest.mark.parametrize("flags, says", BAD, ids=[flags for flags, _ in BAD])
def test_mistakes_are_one_line(tmp_path, scripts, made, flags, says):
    places = {"run": made(40), "new": tmp_path / "new"}
    before = {path: path.read_bytes() for path in made(40).glob("*.json*")}
    given_flags = [f"--workdir={tmp_path / 'new'}", "--num_train_steps=20", *flags.format(**places).split()]
    _, last = refusal(scripts.attempt("train_lm", *made.flags, *given_flags))
    assert says.format(**places) in last
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in made(40).glob("*.json*")} == before

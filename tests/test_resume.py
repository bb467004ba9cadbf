"""Resuming equals not having stopped: real processes, killed, stopped, damaged, and started again."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from tests.forked import Forked
from tests.scripts import SMALL, VECTORS, command, figures, records

NUM_KILLS = 20
FLAGS = [*SMALL, *VECTORS, "--num_train_steps=240", "--eval_every=40", "--checkpoint_every=10"]
LONG = [*FLAGS, "--num_train_steps=1000"]  # so that it has not ended before it is killed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(topics.values())[:20_000], encoding="utf-8")
    return f"--corpus={path}"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, scripts, corpus):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    summary = scripts.summary("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    return figures(summary), records(workdir)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def wait_for(process: subprocess.Popen | Forked, condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not condition():
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_change_nothing(tmp_path, processes, corpus):
    rng = random.Random(0)
    workdir = tmp_path / "run"
    checkpoints = workdir / "checkpoints"
    amid_a_save = 0
    for kill in range(NUM_KILLS):
        old = names(checkpoints)
        process = processes.start("train_lm", f"--workdir={workdir}", corpus, *LONG)
        if kill % 4 == 0:  # anywhere from its first import on
            time.sleep(rng.uniform(0.1, 3.0))
        else:  # after it has saved something, so that the run gets on
            wait_for(process, lambda: any(name.isdigit() for name in names(checkpoints) - old), 60)  # noqa: B023
            time.sleep(rng.uniform(0.0, 0.2))
        if kill % 4 == 1:  # in the middle of a save
            wait_for(process, lambda: any("tmp" in name for name in names(checkpoints)), 10)
        process.kill()
        _, stderr = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"finished after {kill} kills: {stderr}"
        amid_a_save += any("tmp" in name for name in names(checkpoints))
    assert amid_a_save >= 1
    summary = processes.summary("train_lm", f"--workdir={workdir}", corpus, *LONG)
    unbroken = processes.summary("train_lm", f"--workdir={tmp_path / 'unbroken'}", corpus, *LONG)
    assert figures(summary) == figures(unbroken) and records(workdir) == records(tmp_path / "unbroken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, scripts, corpus, unbroken, number):
    workdir = tmp_path / "run"
    process = scripts.start("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    wait_for(process, lambda: "10" in names(workdir / "checkpoints"), 60)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == 128 + number
    last = stderr.splitlines()[-1]
    stopped = int(last.split("stopped at step ")[1].split(",")[0])
    assert "the same command goes on from here" in last and "Traceback" not in stderr
    assert str(stopped) in names(workdir / "checkpoints")
    done = scripts.run("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    assert f"continuing from step {stopped}" in done.stderr
    assert (figures(json.loads(done.stdout)), records(workdir)) == unbroken


def test_keys_and_values_and_matrix_states_go_on_where_they_were(tmp_path, scripts, corpus):
    """Tokens reach back over the stop: a window is longer than the steps of a batch."""
    flags = [*FLAGS, "--num_train_steps=60", "--layers=gla,attention", "--num_heads=2", "--window=40"]
    expected = scripts.summary("train_lm", f"--workdir={tmp_path / 'unbroken'}", corpus, *flags)
    process = scripts.start("train_lm", f"--workdir={tmp_path / 'run'}", corpus, *flags)
    wait_for(process, lambda: "10" in names(tmp_path / "run" / "checkpoints"), 60)
    process.kill()
    process.communicate()
    done = scripts.run("train_lm", f"--workdir={tmp_path / 'run'}", corpus, *flags)
    assert "continuing from step" in done.stderr, done.stderr
    assert figures(json.loads(done.stdout)) == figures(expected)
    assert records(tmp_path / "run") == records(tmp_path / "unbroken")


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory, scripts, corpus):
    """A run stopped half-way, with two checkpoints or more."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    process = scripts.start("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    wait_for(process, lambda: "50" in names(workdir / "checkpoints"), 60)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return workdir


def flip_a_byte(step: Path) -> None:
    """In the middle of the largest file of the parameters."""
    largest = max((step / "params").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def empty(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def halve_the_files(step: Path) -> None:
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_byte, empty, halve_the_files])
def test_damage_costs_one_checkpoint_not_the_run(tmp_path, scripts, corpus, unbroken, stopped_run, damage):
    workdir = tmp_path / "run"
    shutil.copytree(stopped_run, workdir)
    newest, before = sorted(map(int, filter(str.isdigit, names(workdir / "checkpoints"))))[:-3:-1]
    damage(workdir / "checkpoints" / str(newest))
    refused = scripts.run("score_text", f"--run={workdir}", "--text=a")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert f"checkpoint {newest}" in refused.stderr
    done = scripts.run("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    assert f"checkpoint {newest}" in done.stderr and f"continuing from step {before}" in done.stderr
    assert (figures(json.loads(done.stdout)), records(workdir)) == unbroken


def test_all_damaged_is_one_line_and_nothing_is_removed(tmp_path, scripts, corpus, stopped_run):
    workdir = tmp_path / "run"
    shutil.copytree(stopped_run, workdir)
    for step in filter(str.isdigit, names(workdir / "checkpoints")):
        flip_a_byte(workdir / "checkpoints" / step)
    before = names(workdir / "checkpoints")
    done = scripts.run("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    assert done.returncode == 2 and "every checkpoint is damaged" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and names(workdir / "checkpoints") == before


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, scripts, corpus, unbroken, stopped_run):
    """A limit on the size of files stands for the disk: writing fails in the same calls."""
    workdir = tmp_path / "run"
    shutil.copytree(stopped_run, workdir)
    before = {name for name in names(workdir / "checkpoints") if name.isdigit()}

    limited = (
        "import os, resource, sys; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    whole = command("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    done = scripts.execute([sys.executable, "-c", limited, *whole[1:]])
    assert done.returncode == 2 and "cannot save a checkpoint" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert before <= names(workdir / "checkpoints") and not (workdir / "summary.json").exists()
    summary = scripts.summary("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    assert (figures(summary), records(workdir)) == unbroken


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, scripts, corpus):
    flags = [*FLAGS, "--optimizer=sgd", "--learning_rate=1e38", "--clip_norm=0", "--schedule=constant"]
    done = scripts.run("train_lm", f"--workdir={tmp_path / 'run'}", corpus, *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "not finite at step " in done.stderr.splitlines()[-1]


def test_two_processes_do_not_share_a_folder(tmp_path, scripts, corpus):
    workdir = tmp_path / "run"
    first = scripts.start("train_lm", f"--workdir={workdir}", corpus, *LONG)
    wait_for(first, lambda: "10" in names(workdir / "checkpoints"), 60)
    second = scripts.run("train_lm", f"--workdir={workdir}", corpus, *LONG)
    first.kill()
    first.communicate()
    assert second.returncode == 2 and "another process" in second.stderr.splitlines()[-1]

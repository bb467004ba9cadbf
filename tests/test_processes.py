"""Several processes that train one model end where one does, and go on where others were stopped."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest

from experiments.frame import worker
from lmseq.training import processes as together
from tests.forked import Forked
from tests.scripts import SMALL, TIMINGS, figures, records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

FLAGS = [*SMALL, "--batch_size=8", "--num_train_steps=40", "--eval_every=20", "--checkpoint_every=5"]
TWO = "--num_local_processes=2"
AS_ONE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(topics.values())[:20_000], encoding="utf-8")
    return f"--corpus={path}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, scripts, corpus):
    """The losses of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    scripts.summary("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    return losses(workdir)


def losses(workdir: Path) -> dict[str, list[float]]:
    """Those of every record, and the summary's."""
    found = [*records(workdir), figures(json.loads((workdir / "summary.json").read_text()))]
    names = sorted(
        {name for record in found for name in record if "loss" in name or "rmse" in name} - TIMINGS
    )
    return {name: [record[name] for record in found if record.get(name) is not None] for name in names}


def assert_as_one(found: dict[str, list[float]], alone: dict[str, list[float]]) -> None:
    assert found.keys() == alone.keys()
    for name in alone:
        np.testing.assert_allclose(found[name], alone[name], err_msg=name, **AS_ONE)


def members(launcher: int) -> dict[int, int]:
    """The processes of a run, by number."""
    found = {}
    for path in Path("/proc").iterdir():
        try:
            parent = (path / "stat").read_text().rpartition(") ")[2].split()[1]
            environ = (path / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        place = [each for each in environ if each.startswith(f"{worker.VARIABLE}=".encode())]
        if parent == str(launcher) and place:
            found[json.loads(place[0].partition(b"=")[2])["process"]] = int(path.name)
    return found


def send(process: subprocess.Popen | Forked, number: int, member: int, when: Callable[[], bool]) -> str:
    """What a run says to which member one signal is sent."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end and not when():
        time.sleep(0.01)
    os.kill(members(process.pid)[member], number)
    sent = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - sent < 60
    return err


def has_saved(workdir: Path, step: int) -> Callable[[], bool]:
    return lambda: any(
        path.name.isdigit() and int(path.name) >= step for path in (workdir / "checkpoints").glob("*")
    )


def test_two_end_as_one_and_one_goes_on_from_two(tmp_path, scripts, corpus, alone):
    """Also: one that is killed ends the other, in a line; the same command goes on."""
    workdir = tmp_path / "run"
    given = ("train_lm", f"--workdir={workdir}", corpus, *FLAGS)
    err = send(scripts.start(*given, TWO), signal.SIGKILL, 1, has_saved(workdir, 5))
    assert err.splitlines()[-1].startswith("error: process 1 of 2 was ended by SIGKILL")
    assert "Traceback" not in err and err.count("error") == 1
    err = send(scripts.start(*given, TWO), signal.SIGTERM, 1, has_saved(workdir, 10))
    last = err.splitlines()[-1]
    assert "saved; the same command goes on from here" in last and "error" not in err
    stopped = int(last.split("stopped at step ")[1].split(",")[0])
    done = scripts.run(*given)
    assert done.returncode == 0 and f"continuing from step {stopped}" in done.stderr
    assert_as_one(losses(workdir), alone)
    assert json.loads((workdir / "config.json").read_text()).keys().isdisjoint({"num_local_processes"})
    again = scripts.run(*given, TWO)
    assert again.returncode == 0 and again.stdout == done.stdout


def test_two_with_four_devices_each_and_one_with_four_end_as_one(tmp_path, scripts):
    series = "--series=noisy_sine --model=mlp --hidden_size=16 --num_train_steps=200 --eval_every=100".split()
    series += "--batch_size=8 --steps_per_dispatch=10 --checkpoint_every=10".split()
    scripts.summary("predict_series", f"--workdir={tmp_path / 'alone'}", *series)
    workdir = tmp_path / "run"
    given = ("predict_series", f"--workdir={workdir}", *series, "--host_devices=4", "--shard=params")
    err = send(scripts.start(*given, TWO), signal.SIGTERM, 0, has_saved(workdir, 10))
    assert "saved; the same command goes on from here" in err.splitlines()[-1]
    scripts.summary(*given)
    assert_as_one(losses(workdir), losses(tmp_path / "alone"))


def test_processes_of_two_runs_do_not_begin(tmp_path, scripts, corpus):
    workdir, address = tmp_path / "run", free_address()
    started = [
        scripts.start(
            "train_lm",
            f"--workdir={workdir}",
            corpus,
            *FLAGS,
            f"--coordinator_address={address}",
            "--num_processes=2",
            f"--process_id={process}",
            f"--learning_rate={0.01 * (1 + process)}",
        )
        for process in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2 and not out
        assert err.splitlines()[-1] == (
            "error: process 1 has other flags than process 0 (learning_rate: 0.01 -> 0.02): give all the same"
        )
    assert not workdir.exists()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_change_nothing(tmp_path, scripts, corpus):
    rng, workdir = random.Random(0), tmp_path / "run"
    flags = [corpus, *FLAGS, "--num_train_steps=300", TWO]
    for _ in range(10):
        process = scripts.start("train_lm", f"--workdir={workdir}", *flags)
        begun, wait = time.monotonic(), rng.uniform(5.0, 25.0)
        member = rng.randrange(2)
        err = send(process, signal.SIGKILL, member, lambda: time.monotonic() > begun + wait)  # noqa: B023
        assert process.returncode == 2
        assert err.splitlines()[-1].startswith(f"error: process {member} of 2 was ended by SIGKILL")
    summary = scripts.summary("train_lm", f"--workdir={workdir}", *flags)
    unbroken = scripts.summary("train_lm", f"--workdir={tmp_path / 'unbroken'}", *flags)
    assert figures(summary) == figures(unbroken)
    assert records(workdir) == records(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("member", [0, 1])
def test_one_that_hangs_ends_the_other(tmp_path, scripts, corpus, member):
    workdir = tmp_path / "run"
    given = ("train_lm", f"--workdir={workdir}", corpus, *FLAGS, "--num_train_steps=2000", TWO)
    err = send(scripts.start(*given), signal.SIGSTOP, member, has_saved(workdir, 5))
    assert err.splitlines()[-1].startswith(f"error: process {member}")
    assert "does not answer any more" in err.splitlines()[-1]


def test_one_process_has_everything_and_waits_for_nobody():
    made: list[int] = []
    assert together.share({"a": 1}) == [{"a": 1}] and together.is_first() and together.is_alone()
    assert together.of_first(lambda: made.append(1)) is None and together.first_then_others(lambda: 3) == 3
    assert made == [1]
    tree = {"a": jax.numpy.ones(3)}
    assert together.whole(tree) is tree
    placed = together.put(tree, jax.sharding.SingleDeviceSharding(jax.devices()[1]))
    assert placed["a"].devices() == {jax.devices()[1]}

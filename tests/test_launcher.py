"""Several processes as they are asked for, started, and ended: without training."""

import socket
import subprocess
import sys
import time

import jax
import pytest

from experiments.frame import worker
from experiments.frame.launcher import launch
from experiments.frame.processes import Crew, Processes, crew_of, surroundings
from experiments.frame.workdir import Identity, check_same, told
from lmseq.config.language_model import LanguageModelConfig
from lmseq.config.training import TrainConfig

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
}


@pytest.mark.parametrize(
    "environ, found, here",
    [
        (SLURM, "SLURM", 1),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, "", None),
        (
            {name: SLURM[name] for name in SLURM if name != "SLURM_STEP_NUM_TASKS"} | {"SLURM_NTASKS": "8"},
            "",
            None,
        ),
        (OPEN_MPI, "Open MPI", 3),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, "", None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "", None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "", None),  # without the chips
        ({}, "", None),
    ],
)
def test_what_has_started_several_processes_is_found(environ, found, here):
    assert surroundings(environ) == found
    crew = crew_of(Processes(), environ)
    assert crew == (Crew("", 0, (here,), found) if found else None)
    assert crew_of(Processes(num_processes=1), environ) is None


@pytest.mark.parametrize(
    "asked, says",
    [
        ({"num_local_processes": 0}, "num_local_processes of at least 1, got 0"),
        ({"num_processes": -1}, "num_processes of at least 0, got -1"),
        ({"num_local_processes": 2, "coordinator_address": "a:1"}, "leave coordinator_address"),
        ({"num_local_processes": 2, "process_id": 0}, "leave coordinator_address"),
        ({"coordinator_address": "a:1", "num_processes": 2}, "process_id from 0 .* process_id=-1"),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": 2}, "got process_id=2"),
        ({"coordinator_address": "a", "num_processes": 2, "process_id": 1}, "HOST:PORT, got 'a'"),
        ({"coordinator_address": "a:b", "num_processes": 2, "process_id": 1}, "HOST:PORT, got 'a:b'"),
        ({"num_processes": 2}, "need --coordinator_address=HOST:PORT"),
        ({"process_id": 1}, "need --coordinator_address=HOST:PORT"),
    ],
)
def test_processes_that_cannot_be(asked, says):
    with pytest.raises(ValueError, match=says):
        crew_of(Processes(**asked), {})


def test_processes_that_can_be():
    assert crew_of(Processes(num_local_processes=3), {}).here == (0, 1, 2)
    assert crew_of(Processes(coordinator_address="[::1]:80", num_processes=2, process_id=1), SLURM) == Crew(
        "[::1]:80", 2, (1,)
    )


GONE = "page:The following tasks are unhealthy (stopped sending heartbeats):\\n{}\\nThe tasks have crashed."
END = "the same command goes on from the last checkpoint"
KILLED = f"of 2 was ended by SIGKILL, and the others with it: {END}"
HUNG = f"does not answer any more: {END}"


@pytest.mark.parametrize(
    "told, status, line",
    [
        ({0: "exit:0", 1: "exit:0"}, 0, ""),
        ({1: "signal:9"}, 2, f"process 1 {KILLED}"),
        ({0: "signal:9"}, 2, f"process 0 {KILLED}"),
        ({0: GONE.format(1), 1: "signal:9"}, 2, f"process 1 {KILLED}"),
        ({0: GONE.format("0\\n1")}, 2, f"process 1 {HUNG}"),
        ({0: GONE.format("/job:jax_worker/replica:0/task:1")}, 2, f"process 1 {HUNG}"),
        ({1: "page:no answer from coordination service"}, 2, f"process 0, at here:1, {HUNG}"),
        ({1: "abort:x"}, 2, "the coordinator at here:1 does not answer: start process 0 beside the others"),
        ({0: "error:bad text"}, 2, "bad text"),
        ({1: "error:bad text"}, 2, "process 1: bad text"),
        ({0: "error:bad text", 1: "error:bad text"}, 2, "bad text"),
        ({1: "exit:3"}, 2, f"process 1 of 2 ended with status 3: {END}"),
        ({0: "exit:143", 1: "exit:143"}, 143, ""),
        ({0: "wait:15", 1: "wait"}, 143, ""),
    ],
)
def test_one_line_says_why_they_ended(capfd, told, status, line):
    before, crew = time.monotonic(), Crew("here:1", 2, (0, 1))
    assert launch("tests.member", [f"{number}={what}" for number, what in told.items()], crew) == status
    out, err = capfd.readouterr()
    assert time.monotonic() - before < 20
    *said, last = [*err.splitlines(), ""] if not line else err.splitlines()
    assert set(said) <= {"said", *(["interrupted"] if status == 143 else [])} and set(out.splitlines()) <= {
        "printed"
    }
    assert last == (f"error: {line}" if line else "")


def test_a_process_ends_with_its_launcher():
    code = "from experiments.frame import launcher, processes; "
    code += "launcher.launch('tests.member', [], processes.Crew('here:1', 1, (0,)))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stderr.readline() == b"said\n"
        run.kill()
        begun = time.monotonic()
        assert run.stderr.read() == b""  # until nobody has the other end
        assert time.monotonic() - begun < 10


def place(process: int, address: str) -> worker.Place:
    return worker.Place(process, 2, address, "", False, 0, 0, 0, 0)


def test_a_coordinator_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(worker, "JOIN", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        worker._check_way(place(1, f"127.0.0.1:{port}"))
        with pytest.raises(ValueError, match=f"cannot wait for the others at port {port}: Address already"):
            worker._check_way(place(0, f"127.0.0.1:{port}"))
    for address in (f"127.0.0.1:{port}", "no.such.machine.invalid:80"):
        with pytest.raises(ValueError, match=f"the coordinator at {address} does not answer"):
            worker._check_way(place(1, address))


def test_errors_of_a_process_that_is_gone():
    gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    save = OSError("cannot save a checkpoint (Connection reset by peer)")
    assert worker.is_of_others(gloo) and not worker.is_of_others(save)
    save.__cause__ = gloo
    assert worker.is_of_others(save)
    assert worker.is_of_others(jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed"))
    assert not worker.is_of_others(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))


def run_with(facts: dict, **train) -> dict[str, str]:
    return told(Identity("train_lm", LanguageModelConfig(train=TrainConfig(**train)), facts, "corpus.json"))


@pytest.mark.parametrize(
    "other, says",
    [
        (run_with({"corpus": "a", "sha256": "1"}, seed=3), r"process 1 has other flags .*\(seed: 0 -> 3\)"),
        (run_with({"corpus": "a", "sha256": "2"}), "process 1 has other data than process 0 for a"),
    ],
)
def test_processes_of_two_runs(other, says):
    run = Identity("train_lm", LanguageModelConfig(), {"corpus": "a", "sha256": "1"}, "corpus.json")
    with pytest.raises(ValueError, match=says):
        check_same(run, [told(run), other])
    check_same(run, [told(run), run_with({"corpus": "elsewhere/a", "sha256": "1"})])

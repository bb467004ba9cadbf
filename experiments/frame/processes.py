"""Processes that a script starts and waits for, and those that train one run together."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec
from typing import Any, NamedTuple

from experiments.frame.console import say
from lmseq.config.knobs import at_least, knob


def wait_for(process: subprocess.Popen) -> int:
    """The exit status of a process. Signals are forwarded to it; after one, this process exits too."""
    asked = []

    def hand_on(number: int, frame: Any) -> None:
        asked.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        say("interrupted; the same command goes on from here")
        sys.exit(128 + asked[0])
    return status


@dataclass(frozen=True)
class Processes:
    """Which processes train a run together: no part of what the run is."""

    num_local_processes: int = knob(
        1, "processes on this machine that train the run together, each with its own devices"
    )
    coordinator_address: str = knob(
        "", "HOST:PORT where process 0 waits for the others, on any machines; the same for all"
    )
    num_processes: int = knob(
        0, "processes with that address; 0: as SLURM, Open MPI, Kubernetes or Cloud TPU say, or 1"
    )
    process_id: int = knob(-1, "which of them this is, from 0")


class Crew(NamedTuple):
    """The processes of a run: where they meet, how many there are in all, and which are started here.

    Without an address JAX finds the others, in the surroundings that `surroundings` names.
    """

    address: str
    total: int
    here: tuple[int, ...]
    surroundings: str = ""


def crew_of(asked: Processes, environ: Mapping[str, str] = os.environ) -> Crew | None:
    """The processes that flags or the environment ask for; None where one works alone.

    Raises ValueError for flags that are out of range, or that do not go together.
    """
    at_least(1, num_local_processes=asked.num_local_processes)
    at_least(0, num_processes=asked.num_processes)
    others = asked.coordinator_address or asked.process_id != -1 or asked.num_processes
    if asked.num_local_processes > 1:
        if others:
            raise ValueError(
                f"num_local_processes={asked.num_local_processes} starts all processes of the run: leave "
                "coordinator_address, num_processes and process_id out"
            )
        return Crew(_free_address(), asked.num_local_processes, tuple(range(asked.num_local_processes)))
    if asked.coordinator_address:
        _check_address(asked.coordinator_address)
        if not 0 <= asked.process_id < asked.num_processes:
            raise ValueError(
                f"expected process_id from 0 to num_processes - 1 beside coordinator_address, got "
                f"process_id={asked.process_id} and num_processes={asked.num_processes}"
            )
        return Crew(asked.coordinator_address, asked.num_processes, (asked.process_id,))
    if asked.process_id != -1 or asked.num_processes > 1:
        raise ValueError(
            f"process_id={asked.process_id} and num_processes={asked.num_processes} need "
            "--coordinator_address=HOST:PORT, where process 0 is reached"
        )
    found = "" if asked.num_processes == 1 else surroundings(environ)
    return Crew("", 0, (_place(found, environ),), found) if found else None


def surroundings(environ: Mapping[str, str]) -> str:
    """What has started several processes of one run, as far as JAX can find the others; else nothing."""
    if {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= environ.keys():
        # In a batch script, and not in a step of srun, there is one process whatever SLURM_NTASKS says.
        if _number(environ, "SLURM_STEP_NUM_TASKS") > 1:
            return "SLURM"
    if "OMPI_MCA_orte_hnp_uri" in environ and _number(environ, "OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environ.keys() and find_spec("kubernetes"):
        return "Kubernetes"
    on_tpu = environ.get("JAX_PLATFORMS", "tpu").startswith("tpu") and find_spec("libtpu") is not None
    if on_tpu and (glob("/dev/accel*") or glob("/dev/vfio/*")):
        hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
        if "," in hosts if hosts else "TPU_SKIP_MDS_QUERY" not in environ:
            return "Cloud TPU"
    return ""


def _place(found: str, environ: Mapping[str, str]) -> int:
    """Which process this is; JAX asks again where it is not known before."""
    names = {"SLURM": "SLURM_PROCID", "Open MPI": "OMPI_COMM_WORLD_RANK"}
    names |= {"Kubernetes": "JOB_COMPLETION_INDEX", "Cloud TPU": "TPU_WORKER_ID"}
    return _number(environ, names[found])


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected coordinator_address as HOST:PORT, got {address!r}")


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"

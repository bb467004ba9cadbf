"""What every benchmark measures with."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lmseq.training.metrics import write_text


def hardware() -> str:
    """The processor and the number of cores in use."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


class Process(NamedTuple):
    """Wall seconds of a finished process, its largest resident memory in bytes, and what it printed."""

    seconds: float
    peak_bytes: int
    output: str


def run_process(command: list[str], stdin: Path | None = None) -> Process:
    """Run to the end; ValueError, with the end of its errors, if it fails."""
    start = time.perf_counter()
    with (stdin or Path(os.devnull)).open("rb") as source:
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise ValueError(f"{command[0]} failed: {output[-300:]}")
    return Process(time.perf_counter() - start, 1024 * usage.ru_maxrss, output)


def publish(found: dict[str, Any], output: str) -> None:
    """Write figures to a JSON file, if one is named, and print them as one line."""
    if output:
        write_text(Path(output), json.dumps(found, indent=1) + "\n")
    print(json.dumps(found), flush=True)

"""What every benchmark measures with."""

import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from lmseq.files import to_json, write_text


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


def in_turns(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each work: medians of turns, as the machine may be busy for a while."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(timed(work)[0])
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


class Process(NamedTuple):
    """Of a finished process: wall seconds, processor seconds, its largest resident memory, what it printed.

    Processor seconds, unlike the others, hardly depend on what else the machine does.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


# Starts a command, and reports at the end how it ended, its seconds of a core and its memory. On Linux a
# process is said to have had at least what the one that started it had: so a small one starts it.
LAUNCHER = """
import os, sys
report, command = int(sys.argv[1]), sys.argv[2:]
os.set_inheritable(report, False)
_, status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
seconds = usage.ru_utime + usage.ru_stime
os.write(report, b"%d %f %d" % (os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss))
"""


def run_process(command: list[str], stdin: Path | None = None, limit: float | None = None) -> Process:
    """Run to the end; ValueError, with the end of its errors, if it fails.

    With a limit in seconds it is ended after them, with all that it started: TimeoutError.
    """
    start, (ours, theirs) = time.perf_counter(), os.pipe()
    with (stdin or Path(os.devnull)).open("rb") as source, os.fdopen(ours) as report:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(theirs), *command],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs],
            start_new_session=limit is not None,
        )
        os.close(theirs)
        try:
            output = process.communicate(timeout=limit)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{command[0]} took more than {limit:g} s") from None
        finally:
            if process.returncode is None:  # out of time, or this process was interrupted
                (os.killpg if limit is not None else os.kill)(process.pid, signal.SIGKILL)
                process.communicate()
        reported = report.read().split()
    if not reported or int(reported[0]):
        status = f"exit status {reported[0]}, " if reported else ""  # below 0: the signal that ended it
        raise ValueError(f"{command[0]} failed: {status}{output[-300:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    spent = time.perf_counter() - start
    return Process(spent, float(reported[1]), int(reported[2]) * unit, output)


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process of its own, which at its end leaves the devices free."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _share_device) as pool:
        return pool.submit(work, *args).result()


def _share_device() -> None:
    """Several processes take turns on one accelerator: none may take all of its memory."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def publish(found: dict[str, Any], output: str) -> None:
    """Write figures to a JSON file, if one is named, and print them as one line."""
    if output:
        write_text(Path(output), to_json(found, indent=1) + "\n")
    print(to_json(found), flush=True)


Steps = tuple[Callable[[], list[float]], int]  # one batch of steps, returning losses; the steps in it


class Peer:
    """A process of its own that makes steps of some work when it is asked to.

    `build(*args)` is called there, and returns a function that makes one batch of steps and returns its
    losses, and the number of steps in such a batch.
    """

    def __init__(self, build: Callable[..., Steps], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, args), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *question: Any) -> Any:
        """The first losses (`losses`, n), or seconds a step over at least some seconds (`time`, seconds)."""
        with suppress(BrokenPipeError):  # it has ended: what it left says why
            self._ours.send(question)
        try:
            answer = self._ours.recv()
        except (EOFError, ConnectionResetError):
            raise ValueError("a peer's process ended: see its error above") from None
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self._ours.close()
        self._process.terminate()
        self._process.join()


def _serve(connection: Any, build: Callable[..., Steps], args: tuple[Any, ...]) -> None:
    _share_device()
    try:
        work, steps = build(*args)
        while True:
            kind, amount = connection.recv()
            if kind == "losses":
                found: list[float] = []
                while len(found) < amount:
                    found.extend(work())
                connection.send(found[:amount])
            else:
                start, made = time.perf_counter(), 0
                while time.perf_counter() - start < amount:
                    work()
                    made += steps
                connection.send((time.perf_counter() - start) / made)
    except EOFError:
        return
    except ImportError as error:
        connection.send(f"{error}: pip install -r benchmarks/requirements.txt")


def wait_until_idle(most: float = 10.0) -> bool:
    """Wait until other processes leave the cores alone; False if they did not within `most` seconds."""
    deadline = time.monotonic() + most
    while True:
        before = _cpu_times()
        time.sleep(0.1)
        total, idle = (after - start for after, start in zip(_cpu_times(), before, strict=True))
        if total == 0 or idle / total > 0.85:
            return True
        if time.monotonic() > deadline:
            return False


def _cpu_times() -> tuple[int, int]:
    """Ticks of all cores since the start of the system: all, and those with nothing to do."""
    try:
        ticks = [int(tick) for tick in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:  # no such file on this system: nothing is known, and nothing is waited for
        return 0, 0
    return sum(ticks), ticks[3] + ticks[4]


class Spread(NamedTuple):
    """Median and range of repeated measurements."""

    median: float
    least: float
    most: float


def interleaved(peers: dict[str, Peer], rounds: int, seconds: float) -> tuple[dict[str, Spread], int]:
    """Seconds a step of each peer, A B A B ..., and how often the machine was not idle before one."""
    found: dict[str, list[float]] = {name: [] for name in peers}
    disturbed = 0
    for _ in range(rounds):
        for name, peer in peers.items():
            disturbed += not wait_until_idle()
            found[name].append(peer.ask("time", seconds))
    spreads = {name: Spread(statistics.median(v), min(v), max(v)) for name, v in found.items()}
    return spreads, disturbed


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by name; a package that is not there is left out."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

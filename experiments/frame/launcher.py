"""Starts the processes of a run that belong on this machine, and says in a line why they ended.

JAX ends a process with a page of text where another is missing, and nothing that runs in it can prevent that.
So each has a launcher that does not use JAX: it keeps such pages, and says who was missing.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from experiments.frame import worker
from experiments.frame.console import say
from experiments.frame.processes import Crew

FAILED = 2
GRACE = 1.0  # seconds in which others may end as well, with a better reason
GOES_ON = "the same command goes on from the last checkpoint"
UNHEALTHY = re.compile(r"unhealthy[^\n]*:\n((?:[^\n]*\d\n)+)")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Started(NamedTuple):
    """A process of the run: its number, what JAX writes of it, and what it hands over."""

    number: int
    process: subprocess.Popen
    log: IO[bytes]
    words: IO[bytes]

    def written(self) -> bytes:
        """What has been written into its log."""
        self.log.seek(0)
        return self.log.read()

    def said(self) -> list[dict[str, Any]]:
        """What it has handed over, when it has ended."""
        return [json.loads(line) for line in self.words.read().splitlines()]


def launch(module: str, arguments: Sequence[str], crew: Crew) -> int:
    """Run `python -m MODULE ARGUMENTS` in the processes of a crew that belong here; the exit status.

    A signal is handed on to all, and a second one ends them. When one has failed, the others are ended.
    """
    asked: list[int] = []
    started = [_start(number, module, arguments, crew) for number in crew.here]

    def hand_on(number: int, frame: Any) -> None:
        asked.append(number)
        for each in started:
            if each.process.poll() is None:
                each.process.send_signal(number if len(asked) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        killed = _wait(started)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    status = _verdict(started, killed, crew, asked)
    for each in started:
        each.log.close()
        each.words.close()
    return status


def _start(number: int, module: str, arguments: Sequence[str], crew: Crew) -> Started:
    log, lines = tempfile.TemporaryFile(), os.dup(2)
    results = os.dup(1) if number == 0 else os.open(os.devnull, os.O_WRONLY)
    read, write = os.pipe()
    place = worker.Place(
        number,
        crew.total,
        crew.address,
        crew.surroundings,
        len(crew.here) > 1,
        os.getpid(),
        write,
        lines,
        results,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | {worker.VARIABLE: json.dumps(place._asdict())},
        pass_fds=(write, lines, results),
        process_group=0,  # Ctrl-C reaches them once, through us
    )
    for own in (write, lines, results):
        os.close(own)
    return Started(number, process, log, os.fdopen(read, "rb"))


def _wait(started: Sequence[Started]) -> set[int]:
    """Until all have ended; those that are ended here because another has failed."""
    failed_at = None
    while any(each.process.poll() is None for each in started):
        if failed_at is None and any(each.process.poll() for each in started):
            failed_at = time.monotonic()
        # After a signal all end, but not at one moment: a checkpoint is being written.
        stopped = any((each.process.poll() or 0) > 128 for each in started)
        if failed_at is not None and time.monotonic() > failed_at + (30.0 if stopped else GRACE):
            break
        time.sleep(0.02)
    left = [each for each in started if each.process.poll() is None]
    for each in left:
        each.process.kill()
        each.process.wait()
    return {each.number for each in left}


def _verdict(started: Sequence[Started], killed: set[int], crew: Crew, asked: list[int]) -> int:
    """The exit status of all, and the line that says why."""
    bad = [each for each in started if each.number not in killed and each.process.returncode]
    if not bad:
        return 0
    statuses = {each.process.returncode for each in bad}
    if asked and statuses <= {128 + asked[0], -asked[0], -signal.SIGKILL}:
        if any(each.process.returncode < 0 or b"interrupted" in each.written() for each in bad):
            say("interrupted")  # before there was anything to save, or for the second time
        return 128 + asked[0]
    if len(bad) == len(started) and len(statuses) == 1 and min(statuses) > 128:
        return min(statuses)
    say(f"error: {_reason(bad, started, crew)}")
    return FAILED


def _reason(bad: Sequence[Started], started: Sequence[Started], crew: Crew) -> str:
    """What ended a run: of several processes that failed, the one whose failure explains the others'."""
    of_all = f"of {crew.total} " if crew.total else ""
    by_signal = [each for each in bad if each.process.returncode < 0]
    for each in by_signal:
        if each.process.returncode != -signal.SIGABRT:
            name = signal.Signals(-each.process.returncode).name
            others = ", and the others with it" if len(started) > 1 else ""
            return f"process {each.number} {of_all}was ended by {name}{others}: {GOES_ON}"
    said = {each.number: each.said() for each in bad}
    words = [word for each in said.values() for word in each if "error" in word]
    if words:
        first = words[0]
        is_everyones = first["process"] == 0 or len(words) == crew.total
        return first["error"] if is_everyones else f"process {first['process']}: {first['error']}"
    by_status = [each for each in bad if each.process.returncode > 0]
    if by_status:
        first = by_status[0]
        return f"process {first.number} {of_all}ended with status {first.process.returncode}: {GOES_ON}"
    aborted = by_signal[0]
    return _page_in_a_line(aborted, crew, any("joined" in word for word in said[aborted.number]))


def _page_in_a_line(each: Started, crew: Crew, has_joined: bool) -> str:
    """Who was missing, from what JAX writes before it ends a process."""
    page = each.written().decode(errors="replace")
    where = crew.address or crew.surroundings
    if not has_joined:
        if each.number == 0:
            return (
                f"waited {worker.JOIN} s at {where} for the other processes of {crew.total or 'the run'}, "
                "which have not all come: start each with its own --process_id and the same other flags"
            )
        return f"the coordinator at {where} does not answer: start process 0 beside the others"
    found = UNHEALTHY.search(page)
    numbers = [] if found is None else [int(n) for n in re.findall(r"(\d+)\n", found[1])]
    missing = [str(number) for number in numbers if number != each.number]
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        return f"process {' and '.join(missing)} {verb} not answer any more: {GOES_ON}"
    if "oordination" in page and each.number:
        place = f", at {crew.address}," if crew.address else ""
        return f"process 0{place} does not answer any more: {GOES_ON}"
    say(page[-2000:])
    return f"process {each.number} was ended by SIGABRT: {GOES_ON}"

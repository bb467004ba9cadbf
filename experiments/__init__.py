"""Experiments: a script each, and folders of what they share."""

import atexit
import os
import signal
import sys
import time
from contextlib import suppress

STARTED = time.monotonic()  # before anything else is imported, so that seconds count from the process's start


def _interrupted(number: int, frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _is_started(arguments: list[str]) -> bool:
    """Whether this process is `python -m` of a script of the project, and not one that imports it."""
    places = [place for place, argument in enumerate(arguments[:-1]) if argument == "-m"]
    return bool(places) and arguments[places[0] + 1].startswith(("experiments.", "benchmarks."))


def _open_streams() -> None:
    """Give a process that was started without some of its three streams an empty one in its place.

    Else the next file that is opened would get that number, and what is said would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            empty = os.open(os.devnull, os.O_RDWR)
            if empty != number:
                os.dup2(empty, number)
                os.close(empty)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))


ENDED: list[int] = []  # the status of a script whose work is done


def _leave() -> None:
    """End the process with what is at work in it: to take all modules apart takes half a second."""
    if ENDED:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # it is closed, or its reader is gone
                stream.flush()
        os._exit(ENDED[0])


if _is_started(sys.orig_argv):
    _open_streams()
    atexit.register(_leave)  # what is registered first is called last
    # Until a training looks at signals itself, one of them ends the process with a word.
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _interrupted)

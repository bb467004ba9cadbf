"""Processes that a script starts and waits for."""

import signal
import subprocess
import sys
from typing import Any

from experiments.frame.console import say


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

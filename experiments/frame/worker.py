"""One of several processes of a run: how it joins the others, what it may say, how it ends.

It is started by `experiments.frame.launcher`, in whose environment its place stands. Process 0 speaks; of the
others mistakes alone are heard, which every process hands to its launcher.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from experiments.frame import console
from experiments.frame.command import StoppedError

VARIABLE = "LMSEQ_WORKER"
# Seconds: to find the others; after which one that does not answer is taken for dead; to say goodbye.
JOIN, ALIVE, LEAVE = 45, 20, 10
NAMED_WITHIN = 60.0  # by then JAX has said who is missing, or the launcher has ended this process


class Place(NamedTuple):
    """Which process this is, and its launcher: the numbers of its files for mistakes, for
    lines and for results.

    address and total: as of `Crew`. is_local: whether all processes of the run have the one launcher.
    """

    process: int
    total: int
    address: str
    surroundings: str
    is_local: bool
    launcher: int
    words: int
    lines: int
    results: int


def place_here() -> Place | None:
    """The place of this process, once; None of one that works alone."""
    text = os.environ.pop(VARIABLE, None)
    return None if text is None else Place(**json.loads(text))


class Worker:
    """This process among the others."""

    def __init__(self, place: Place) -> None:
        self.place, self._client = place, None

    @contextmanager
    def at_work(self) -> Iterator[Callable[[], None]]:
        """Be heard as its place has it, and wait for all at the end; what joins the others."""
        self._take_over_streams()
        threading.Thread(target=self._end_with_launcher, daemon=True).start()
        console.hand_mistakes_to(self._hand_over)
        try:
            yield self._connect
        except StoppedError:
            self._leave()
            raise
        except Exception as error:
            if is_of_others(error):
                time.sleep(NAMED_WITHIN)
            raise
        self._leave()

    def _connect(self) -> None:
        """Join the others. Raises ValueError where there is no way to them."""
        import jax
        from jax._src import distributed

        place = self.place
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from us
        timeouts = {
            "initialization_timeout": JOIN,
            "heartbeat_timeout_seconds": ALIVE,
            "shutdown_timeout_seconds": LEAVE,
        }
        if place.address:
            _check_way(place)
            where = {"local_device_ids": [place.process]} if place.is_local else {}
            where |= {"coordinator_address": place.address, "num_processes": place.total}
            where |= {"process_id": place.process}
        else:
            where = {}
        try:
            jax.distributed.initialize(**where, **timeouts)
        except Exception as error:
            raise ValueError(
                f"cannot join the processes that {place.surroundings or place.address} has: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        self._client = distributed.global_state.client
        self._write({"joined": True})
        if not place.is_local:
            threading.Thread(target=self._end_with_others, daemon=True).start()

    def _take_over_streams(self) -> None:
        """Lines and results go where the launcher's go, and not to where JAX writes its own."""
        sys.stdout = os.fdopen(self.place.results, "w", errors="backslashreplace")
        lines = os.fdopen(self.place.lines, "w", buffering=1, errors="backslashreplace")
        hook = sys.excepthook

        def tell(*what: Any) -> None:
            sys.stderr = lines
            hook(*what)
            os._exit(1)  # what JAX registered for the end would wait for the others

        sys.excepthook = tell
        sys.stderr = lines if self.place.process == 0 else open(os.devnull, "w")

    def _hand_over(self, mistake: str) -> None:
        """A mistake, to the launcher and to the other processes."""
        said = {"process": self.place.process, "error": mistake}
        self._write(said)
        if self._client is not None and not self.place.is_local:
            from lmseq.training.processes import PLACE

            with suppress(Exception):  # another was first
                self._client.key_value_set(f"{PLACE}/failed", json.dumps(said))
            if self.place.process == 0:
                time.sleep(2.0)  # where it is, the others hear it

    def _write(self, said: dict[str, Any]) -> None:
        with suppress(OSError):
            os.write(self.place.words, json.dumps(said).encode() + b"\n")

    def _end_with_others(self) -> None:
        from lmseq.training.processes import PLACE, WEEK

        try:
            said = json.loads(self._client.blocking_key_value_get(f"{PLACE}/failed", WEEK))
        except Exception:  # the run is over, or process 0 is gone: JAX tells
            return
        if said["process"] != self.place.process:
            self._write(said)
            os._exit(2)

    def _end_with_launcher(self) -> None:
        while os.getppid() == self.place.launcher:
            time.sleep(0.5)
        os._exit(1)

    def _leave(self) -> None:
        if self._client is None:
            return
        import jax

        from lmseq.training.processes import share

        share(None)
        jax.distributed.shutdown()


def is_of_others(error: BaseException) -> bool:
    """Whether an error, or what it was made of, may come of a process that is gone, and not of this one."""
    text = str(error)
    names = {each.__name__ for each in type(error).__mro__}
    if "Gloo" in text or ("JaxRuntimeError" in names and "RESOURCE_EXHAUSTED" not in text):
        return True
    return error.__cause__ is not None and is_of_others(error.__cause__)


def _check_way(place: Place) -> None:
    """ValueError where process 0 cannot wait at the address, or does not answer there."""
    host, _, port = place.address.rpartition(":")
    if place.process == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise ValueError(f"cannot wait for the others at port {port}: {error.strerror}") from None
        return
    end = time.monotonic() + JOIN
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"the coordinator at {place.address} does not answer ({error.strerror or error}): start "
                    "process 0, or correct --coordinator_address"
                ) from None
        time.sleep(0.2)

"""Scripts in processes forked from one that has imported lmseq and what it needs: two seconds less for each.

multiprocessing's fork server is such a process. It runs no thread and starts no backend of JAX. What it forks
imports `experiments` afresh, so its clock, its signals and its flags are those of a process of its own.
"""

import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from unittest import mock

import lmseq

# What functions import when they are called.
LATE = ["matplotlib.backends.backend_agg", "matplotlib.pyplot", "orbax.checkpoint", "pandas", "pooch"]
LATE += ["scipy.stats", "tensorboardX"]
CONTEXT = multiprocessing.get_context("forkserver")


def start_server(env: Mapping[str, str]) -> None:
    """In this environment, which is that of all that it forks."""
    modules = [module.name for module in pkgutil.walk_packages(lmseq.__path__, "lmseq.")]
    CONTEXT.set_forkserver_preload([*LATE, *modules])
    with mock.patch.dict(os.environ, env, clear=True):
        forkserver.ensure_running()


def run_module(module: str, flags: Sequence[str], out: str, err: str) -> None:
    """As `python -m MODULE FLAGS >>OUT 2>>ERR` does."""
    if len(os.listdir(f"/proc/{os.getppid()}/task")) > 1:  # whose locks nobody would open here
        raise RuntimeError("expected a fork server without threads: something that it imports starts one")
    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.orig_argv, sys.argv = [sys.executable, "-m", module, *flags], [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """`python -m MODULE FLAGS`, forked: with those methods of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, flags: Sequence[str]) -> None:
        self.args = [module, *flags]
        self._files = [tempfile.NamedTemporaryFile("r", encoding="utf-8") for _ in range(2)]
        names = [file.name for file in self._files]
        self._process = CONTEXT.Process(target=run_module, args=(module, flags, *names))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote, once it has ended. Raises `subprocess.TimeoutExpired` when it does not."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (file.read() for file in self._files)
        for file in self._files:
            file.close()
        return out, err

    def finish(self, timeout: float) -> subprocess.CompletedProcess:
        """The same as `subprocess.run` returns it: one that does not end is killed."""
        try:
            out, err = self.communicate(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return subprocess.CompletedProcess(self.args, self.returncode, out, err)

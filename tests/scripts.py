"""Running the scripts as a user does, in processes of their own; and their mistakes, in this one."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from experiments import (
    ablate,
    calibrate,
    compile_for,
    export,
    forecast,
    native,
    page,
    plot_runs,
    prepare_text,
    sample_text,
    score_text,
    write_grammar,
)
from experiments.ablation.design import EXPERIMENTS
from experiments.claims import __main__ as claims_of
from experiments.frame import start
from experiments.frame.command import attempt_command
from experiments.frame.experiment import attempt_experiment
from tests import forked, unoptimised

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "--hidden_size=16 --batch_size=4 --num_steps=16 --warmup_steps=10 --steps_per_dispatch=5 "
    "--horizon_origins=8 --horizon_samples=4"
).split()
VECTORS = "--ngram_order=3 --ngram_rows=200 --ngram_size=4 --ngram_dropout=0.2".split()
COMMANDS = {
    "score_text": score_text.COMMAND,
    "sample_text": sample_text.COMMAND,
    "calibrate": calibrate.COMMAND,
    "page": page.COMMAND,
    "plot_runs": plot_runs.COMMAND,
    "prepare_text": prepare_text.COMMAND,
    "write_grammar": write_grammar.COMMAND,
    "native": native.COMMAND,
    "export": export.COMMAND,
}
TIMINGS = {
    "measuring_seconds",
    "seconds",
    "tokens_per_second",
    "seconds_to_first_step",
    "seconds_to_target_loss",
    "wall_seconds",
}


def environment(cache: Path, **more: str) -> dict[str, str]:
    """This process's, without the tests' virtual devices, and with compiled programs kept in `cache`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "LMSEQ_DATA_DIR", "COLUMNS")}
    return kept | {
        "OPENBLAS_NUM_THREADS": "1",  # a process with threads cannot be forked
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XDG_CACHE_HOME": str(cache),
        "PYTHONWARNINGS": "error::UserWarning",
        **more,
    }


def command(script: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", f"experiments.{script}", *flags]


def attempt(script: str, flags: Sequence[str]) -> int:
    """The exit status of `python -m experiments.SCRIPT`, in this process."""
    if script == "claims":
        return claims_of.attempt(flags)
    module = f"experiments.{script}"
    for experiment in (*EXPERIMENTS, ablate.EXPERIMENT, compile_for.EXPERIMENT, forecast.EXPERIMENT):
        if experiment.module == module:
            return attempt_experiment(experiment, flags)
    return attempt_command(COMMANDS[script], flags)


class Scripts:
    """Runs scripts in processes of their own, all with the same environment."""

    def __init__(self, cache: Path) -> None:
        self.env = environment(cache)

    def execute(self, whole: list[str], **more: Any) -> subprocess.CompletedProcess:
        settings = {"env": self.env, "capture_output": True, "text": True, "timeout": 240} | more
        return subprocess.run(whole, cwd=ROOT, **settings)

    def run(self, script: str, *flags: str, **more: Any) -> subprocess.CompletedProcess:
        return self.execute(command(script, *flags), **more)

    def attempt(self, script: str, *flags: str) -> subprocess.CompletedProcess:
        """What a process would have answered, from this one, whose JAX stays as it is: for mistakes."""
        out, err = io.StringIO(), io.StringIO()
        environ = {k: v for k, v in os.environ.items() if k != "LMSEQ_DATA_DIR"}
        environ["XDG_CACHE_HOME"] = self.env["XDG_CACHE_HOME"]
        with (
            mock.patch.dict(os.environ, environ, clear=True),
            mock.patch.object(start, "prepare_jax", lambda *args, **kwargs: None),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            status = attempt(script, flags)
        return subprocess.CompletedProcess([script, *flags], status, out.getvalue(), err.getvalue())

    def summary(self, script: str, *flags: str) -> dict[str, Any]:
        """The JSON object on the last line of a run that must succeed."""
        done = self.run(script, *flags)
        assert done.returncode == 0, done.stderr
        for workdir in [Path(flag.partition("=")[2]) for flag in flags if flag.startswith("--workdir=")]:
            for path in workdir.glob("*.json*"):
                for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
                    strict_json(text)
        return strict_json(done.stdout.splitlines()[-1])

    def start(self, script: str, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            command(script, *flags),
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class ForkedScripts(Scripts):
    """The same in forked processes, whose programs XLA does not optimise: of their time, a third is left."""

    def __init__(self, cache: Path) -> None:
        super().__init__(cache)
        self.env["XLA_FLAGS"] = unoptimised.XLA_FLAGS
        forked.start_server(self.env)

    def run(self, script: str, *flags: str) -> subprocess.CompletedProcess:
        return self.start(script, *flags).finish(timeout=240)

    def start(self, script: str, *flags: str) -> forked.Forked:
        return forked.Forked(f"experiments.{script}", flags)


def strict_json(text: str) -> Any:
    """What a text of JSON says; Python alone reads Infinity and NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def refusal(done: subprocess.CompletedProcess) -> tuple[list[str], str]:
    """The progress lines and the last line of a mistake, which is one line on stderr and nothing else."""
    assert done.returncode == 2 and not done.stdout
    *progress, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    return progress, last


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what depends on the clock."""
    return {name: value for name, value in summary.items() if name not in TIMINGS}


def records(workdir: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [figures(json.loads(line)) for line in lines]


class Made:
    """Finished runs of train_lm that differ in a few flags, each made when it is first asked for."""

    def __init__(self, scripts: Scripts, root: Path, flags: Sequence[str]) -> None:
        self._scripts, self._root, self.flags = scripts, root, list(flags)
        self._known: dict[tuple[str, ...], Path] = {}

    def __call__(self, num_train_steps: int, *more: str) -> Path:
        """The folder of a run of so many steps, with more flags beside."""
        flags = (f"--num_train_steps={num_train_steps}", *more)
        if flags not in self._known:
            folder = self._root / str(len(self._known))
            self._scripts.summary("train_lm", f"--workdir={folder}", *self.flags, *flags)
            self._known[flags] = folder
        return self._known[flags]


def summary_of(workdir: Path) -> dict[str, Any]:
    """What a finished run has written."""
    return json.loads((workdir / "summary.json").read_text())


def config_of(workdir: Path) -> dict[str, Any]:
    """The settings in a run's folder."""
    return json.loads((workdir / "config.json").read_text())

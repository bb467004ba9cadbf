"""A trace of some steps of a training: what each thread and device did, and for how long.

JAX's profiler writes it in two forms, one for TensorBoard (with the plugin of the package xprof) and one for
ui.perfetto.dev, which draws it in any browser.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.frame.console import say
from lmseq.config.knobs import knob
from lmseq.config.training import TrainConfig
from lmseq.training.metrics import TENSORBOARD

DRAWN = "perfetto_trace.json.gz"
FORM = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class ProfileOptions:
    """What of a training is traced: no part of what the run is."""

    profile_steps: str = knob(
        "",
        "write a trace of the steps from the first to before the second, such as 100:110, and of all others "
        "in their dispatches; TensorBoard and Perfetto open it",
    )


def read_steps(options: ProfileOptions, train: TrainConfig) -> range:
    """The steps that are asked for, none of an empty text; ValueError unless the training has all of them."""
    if not options.profile_steps:
        return range(0)
    found = FORM.fullmatch(options.profile_steps)
    steps = range(*map(int, found.groups())) if found else range(0)
    if not steps or steps.stop > train.num_train_steps:
        raise ValueError(
            f"expected --profile_steps=FIRST:END with FIRST below END and END at most num_train_steps="
            f"{train.num_train_steps}, got {options.profile_steps!r}"
        )
    return steps


class Tracer:
    """Traces the dispatches that hold some steps; the training computes the same with and without it."""

    def __init__(self, steps: range, workdir: Path | None) -> None:
        self._steps, self._workdir = steps, workdir
        self._span: tuple[int, int] | None = None  # of the steps in the trace that is being made

    def begin(self, step: int) -> None:
        """The training begins, or goes on, at a step."""
        if self._steps and step >= self._steps.stop:
            say(f"no trace: steps {self._steps.start} to {self._steps.stop} were trained before")

    @contextmanager
    def around(self, first: int, end: int) -> Iterator[None]:
        """The context of the dispatch of steps first ... end - 1."""
        import jax

        if first >= self._steps.stop or end <= self._steps.start:
            yield
            return
        if self._span is None:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # a thousand frames of Python for each operation
            folder = self._workdir / TENSORBOARD
            jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)
        self._span = (self._span[0] if self._span else first, end)
        with jax.profiler.StepTraceAnnotation("dispatch", step_num=first):
            yield
        if end >= self._steps.stop:
            self.close()

    def close(self) -> None:
        """Write the trace that was begun, if any, and say where."""
        import jax

        if self._span is None:
            return
        (first, end), self._span = self._span, None
        try:
            jax.profiler.stop_trace()
            drawn = max((self._workdir / TENSORBOARD).rglob(DRAWN), key=lambda path: path.stat().st_mtime)
        except (OSError, RuntimeError, ValueError) as error:  # no reason to lose a training
            say(f"no trace of steps {first}:{end}, which cannot be written: {' '.join(str(error).split())}")
        else:
            say(f"steps {first}:{end} traced: {drawn}")

"""What the scripts that measure share: many small trainings, intervals, verdicts, a ledger that resumes."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats
from tqdm import tqdm

from experiments.frame.console import say
from experiments.frame.start import seconds
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.partition import Plan
from lmseq.training import ensemble, loop, optimizer, sharding, state, train_step
from lmseq.training.metrics import MetricsWriter, read_records
from lmseq.types import Params, Stream


class Trainer:
    """Trains one model from as many seeds as one likes; what is compiled is compiled once."""

    def __init__(
        self,
        model: Model,
        train: TrainConfig,
        batch_size: int,
        num_steps: int,
        objective: train_step.Objective = train_step.window_loss,
    ) -> None:
        updates = optimizer.make_optimizer(train)
        self._train, self._mesh = train, sharding.make_mesh()
        self._init = jax.jit(lambda key: state.init_training(key, model, updates, batch_size))
        self._dispatch = train_step.make_dispatch(model, updates, num_steps, objective)

    def fit(self, seed: int, stream: Stream, plan_of: Callable[[int], Plan]) -> Params:
        """Parameters after the training that the seed fixes: the initial ones, and the noise of each step."""
        init_key, train_key = jax.random.split(jax.random.key(seed))
        fresh = self._init(init_key)
        training = jax.device_put(fresh, sharding.training_sharding(self._mesh, fresh))
        stream = jax.device_put(np.asarray(stream), sharding.replicated(self._mesh))
        plans = loop.PlanStream(plan_of)
        for done in loop.dispatches(
            self._train, plans, self._dispatch, self._mesh, training, stream, train_key
        ):
            training = done.training
        return training.state.params


Unit = dict[str, Any]  # what distinguishes one measurement from the others: model, condition, seed


def measured(
    workdir: Path, units: Sequence[Unit], measure: Callable[[Unit], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each unit with its figures and `seconds`, in order; what is recorded already is not measured again."""
    recorded = read_records(workdir / "metrics.jsonl")
    writer = MetricsWriter(workdir, len(recorded))
    try:
        quiet = not sys.stderr.isatty()
        for number, unit in enumerate(tqdm(units, mininterval=1.0, disable=quiet), start=1):
            if number <= len(recorded):
                yield recorded[number - 1]
                continue
            begun = seconds()
            record = {**unit, **measure(unit)}
            record["seconds"] = seconds() - begun
            writer.write(number, record)
            if quiet:
                told = " ".join(f"{name}={value}" for name, value in unit.items())
                say(f"measured {number}/{len(units)}  {told}  {seconds():.1f} s")
            yield record
    finally:
        writer.close()


class Interval(NamedTuple):
    """A mean over seeds and its two-sided 95 % confidence interval (Student 1908)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interval(samples: Sequence[float]) -> Interval:
    """The interval of two samples or more; ValueError for fewer."""
    if len(samples) < 2:
        raise ValueError(f"expected at least two seeds for an interval, got {len(samples)}")
    mean, error = float(np.mean(samples)), float(stats.sem(samples))
    half = error * float(stats.t.ppf(0.975, len(samples) - 1))
    return Interval(mean, mean - half, mean + half)


def flat(name: str, found: Interval) -> dict[str, float]:
    """An interval as entries of a summary."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


class Check(NamedTuple):
    """What must lie where for a claim to hold: an interval, between `low` and `high`."""

    what: str
    found: Interval
    low: float = -math.inf
    high: float = math.inf

    @property
    def verdict(self) -> str:
        """`holds` of an interval that lies inside, `fails` of one that lies outside, else `undecided`."""
        if self.low <= self.found.low and self.found.high <= self.high:
            return "holds"
        # Not `above or below`: what is not a number fails too.
        return "undecided" if self.found.low <= self.high and self.low <= self.found.high else "fails"

    def record(self) -> dict[str, Any]:
        """The check as JSON has it: None for no bound."""
        bounds = {"at_least": self.low, "at_most": self.high}
        return {
            "what": self.what,
            **self.found._asdict(),
            **{name: bound if math.isfinite(bound) else None for name, bound in bounds.items()},
            "verdict": self.verdict,
        }


def exact(value: float) -> Interval:
    """A figure without uncertainty, such as one over all cases there are."""
    return Interval(value, value, value)


def verdict(checks: Sequence[Check]) -> str:
    """Of a claim: it fails with its first check that fails, and is undecided with one that is."""
    found = {check.verdict for check in checks}
    return next((each for each in ("fails", "undecided") if each in found), "holds")


def judged(checks: Sequence[Check]) -> dict[str, Any]:
    """The verdict with what it was computed from, for a summary; says each check on a line."""
    for check in checks:
        bounds = [f">= {check.low:.4g}"] * math.isfinite(check.low)
        bounds += [f"<= {check.high:.4g}"] * math.isfinite(check.high)
        say(f"{check.verdict:<10}{check.what}: {check.found}, expected {' and '.join(bounds)}")
    return {"verdict": verdict(checks), "checks": [check.record() for check in checks]}


def fit_members(
    model: Model,
    train: TrainConfig,
    seeds: Sequence[int],
    streams: Sequence[Stream],
    plan_of: Callable[[int, int], Plan],
    batch_size: int,
    num_steps: int,
    objective: train_step.Objective = train_step.window_loss,
    settings: dict[str, tuple[float, ...]] | None = None,
    parts: ensemble.Parts | None = None,
) -> list[Params]:
    """Parameters of a training from each seed on a stream of its own, all of one length, in one program.

    streams: one for each different seed, or one for all. plan_of(seed, epoch) plans batches of one stream.
    settings: of `Members`, under which seeds may stand several times; parts as for `ensemble_run`. Says how
    far it is.
    """
    place = {seed: min(i, len(streams) - 1) for i, seed in enumerate(dict.fromkeys(seeds))}
    length = len(streams[0])

    def plan_within(seed: int, epoch: int) -> Plan:
        plan = plan_of(seed, epoch)
        return plan._replace(starts=plan.starts + np.int32(length * place[seed]))

    members = ensemble.Members(tuple(seeds), settings or {})
    sizes, stream = (batch_size, num_steps), np.concatenate(streams)
    run = ensemble.ensemble_run(model, train, members, stream, plan_within, *sizes, objective, parts)
    quiet = not sys.stderr.isatty()
    with tqdm(total=train.num_train_steps, unit=" steps", leave=False, disable=quiet) as bar:
        for done in run:
            bar.update(done.step - bar.n)
    return [ensemble.member(done.training, i).state.params for i in range(len(seeds))]

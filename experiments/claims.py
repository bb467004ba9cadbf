"""What the scripts that measure a claim share: many small trainings, intervals, a ledger that resumes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats
from tqdm import tqdm

from lmseq.config import TrainConfig
from lmseq.contract import Model
from lmseq.data.partition import Plan
from lmseq.training import loop, optimizer, sharding, state, step
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
        objective: step.Objective = step.window_loss,
    ) -> None:
        updates = optimizer.make_optimizer(train)
        self._train, self._mesh = train, sharding.make_mesh()
        self._init = jax.jit(lambda key: state.init_training(key, model, updates, batch_size))
        self._dispatch = step.make_dispatch(model, updates, num_steps, objective)

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
    """Each unit with its figures, in order; those that an interrupted run recorded are not measured again."""
    recorded = read_records(workdir / "metrics.jsonl")
    writer = MetricsWriter(workdir, len(recorded))
    try:
        for number, unit in enumerate(tqdm(units, mininterval=1.0), start=1):
            if number <= len(recorded):
                yield recorded[number - 1]
                continue
            record = {**unit, **measure(unit)}
            writer.write(number, record)
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

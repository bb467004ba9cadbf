"""Training from beginning to end: `fit` one model, or the same model from many seeds with `fit_members`.

    params, records = fit(model, tokens, TrainConfig(num_train_steps=500))

A training is fixed by the model, the stream, the settings and the seed. With a working folder it goes on from
its newest good checkpoint and ends with the same parameters, bit for bit, as if it had never been stopped.
`train` is the loop under `fit`, with the figures that a script shows beside the result.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lmseq.config.training import TrainConfig, check_train, settled
from lmseq.contract import Model
from lmseq.data.partition import Plan
from lmseq.files import locked
from lmseq.models.interface import count_parameters
from lmseq.programs import Program
from lmseq.training import ensemble, loop, processes
from lmseq.training.checkpoint import Progress
from lmseq.training.feeding import as_elements, put_stream
from lmseq.training.folder import Folder, begin
from lmseq.training.gradient import Objective
from lmseq.training.job import Batches, Job, check_job
from lmseq.training.optimizer import optimizer_of
from lmseq.training.sharding import make_mesh, training_sharding
from lmseq.training.state import LoopState, init_training, split_key
from lmseq.training.train_step import Dispatch, make_dispatch, window_loss
from lmseq.training.validated import is_validated, mean_weights, observe, with_mean, without_mean
from lmseq.training.watch import Clock, Evaluate, Record, Watcher, final_params
from lmseq.types import Params, PRNGKey, Stream


class Fitted(NamedTuple):
    """Trained parameters, or their mean where one is kept; and a record of each dispatch.

    Of each: step, train_loss, grad_norm, evaluations.
    """

    params: Params
    records: list[Record]


class Begun(NamedTuple):
    """What is known when a training begins: where from, and a line for each checkpoint that was skipped."""

    step: int
    progress: Progress
    skipped: tuple[str, ...]
    num_parameters: int


class Trained(NamedTuple):
    """What a training leaves.

    stopped: whether `should_stop` ended it, perhaps before its last step. progress: the best evaluation and
    the seconds spent, over all processes; those of earlier ones are `seconds_before`. tokens_per_second: of
    training alone, None where nothing was trained after compiling. seconds_to_first_step: on the clock of the
    job.
    """

    params: Params
    records: list[Record]
    progress: Progress
    stopped: bool
    seconds_before: float
    tokens_per_second: float | None
    seconds_to_first_step: float | None


def fit(
    model: Model,
    stream: Stream,
    config: TrainConfig = TrainConfig(),
    *,
    batches: Batches = Batches(),
    objective: Objective = window_loss,
    workdir: str | Path | None = None,
    evaluate: Evaluate | None = None,
    on_dispatch: Callable[[Record], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Fitted:
    """Train a model on a stream of token ids (T,) or of values (T, D), from config.seed.

    Values should be standardised. evaluate(params, step) gives figures to record every config.eval_every
    steps; `valid_loss` among them decides which checkpoint is the best. on_dispatch(record) is called after
    every dispatch of config.steps_per_dispatch steps. should_stop(), asked after each, ends the training
    early when true. With a workdir the training saves checkpoints and metrics.jsonl there, and goes on from
    them when called again with the same arguments; without one nothing is written. Nothing is printed.

    The programs of the last four trainings are kept: another that differs only in stream and seed does not
    compile again.

    Raises ValueError for settings out of range, a stream that is empty, too short or not what the model
    reads, a model or objective that cannot be hashed, a model larger than the memory, and a workdir that
    holds another run or that another process works in; NonFiniteLossError, naming the step, when training
    diverges.
    """
    folder = None if workdir is None else Path(workdir)
    job = Job(model, np.asarray(stream), settled(config), batches, objective, folder, evaluate)
    check_job(job)
    writes = folder is not None and processes.is_first()
    with locked(folder) if writes else nullcontext():
        processes.of_first(lambda: begin(folder, job) if writes else None)
        trained = train(job, on_dispatch=on_dispatch, should_stop=should_stop)
    return Fitted(trained.params, trained.records)


def train(
    job: Job,
    *,
    on_begin: Callable[[Begun], None] | None = None,
    on_dispatch: Callable[[Record], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    around: loop.Around = lambda first, end: nullcontext(),
) -> Trained:
    """Train from the newest checkpoint to the end, or until should_stop() is true: then save, and return.

    The job is not checked here: `check_job` does. on_begin is called before the first dispatch, and
    around(first, end) is the context of each, such as one that traces it. Several processes
    (`lmseq.training.processes`) do so together, stop where one of them should, and all return the parameters
    in full; process 0 evaluates and writes.
    """
    clock, mesh, keys = job.clock or _stopwatch(), make_mesh(), split_key(job.train.seed)
    init, dispatch = _programs(
        job.model, dataclasses.replace(job.train, seed=0), job.batches.sizes, job.objective, mesh
    )
    fresh = init(keys.init)
    shardings = training_sharding(mesh, fresh, job.train.shard)
    with closing(Folder(job.workdir, job.train)) as folder:
        restored = folder.restore(fresh, shardings)
        loop_state = processes.put(restored.loop_state, shardings)
        if on_begin is not None:
            num_parameters = count_parameters(loop_state.state.params)
            on_begin(Begun(restored.step, restored.progress, restored.skipped, num_parameters))
        stream = np.asarray(job.stream)
        watcher = Watcher(
            job.train,
            None if job.evaluate is None else partial(_evaluate, job.evaluate),
            has_perplexity=not np.issubdtype(stream.dtype, np.floating),
            clock=clock,
            progress=restored.progress,
            step=restored.step,
        )
        plans = loop.PlanStream(partial(job.batches.plan_of, len(stream), job.train.seed))
        tokens = put_stream(stream, job.batches.most_steps, mesh)
        records, stopped = folder.records, False

        def settle(done: loop.Dispatched) -> LoopState:
            records.append(watcher.record(done))
            return _steered(job.train, done.loop_state, records[-1], shardings)

        for done in loop.dispatches(
            job.train, plans, dispatch, mesh, loop_state, tokens, keys.train, settle, around
        ):
            loop_state = done.loop_state
            folder.write(records[-1])
            if on_dispatch is not None:
                on_dispatch(records[-1])
            stopped = any(processes.share((should_stop is not None and should_stop()) or None))
            if stopped or watcher.wants_checkpoint():
                folder.save(done.step, loop_state, watcher.progress())
            if stopped:
                break
            watcher.go_on()
    return Trained(
        processes.whole(final_params(loop_state)),
        records,
        watcher.progress(),
        stopped,
        restored.progress.seconds,
        watcher.tokens_per_second(),
        watcher.seconds_to_first_step,
    )


def fit_members(
    model: Model,
    streams: Sequence[Stream],
    config: TrainConfig,
    seeds: Sequence[int],
    *,
    batches: Batches = Batches(),
    objective: Objective = window_loss,
    settings: Mapping[str, Sequence[float]] | None = None,
    parts: ensemble.Parts | None = None,
    on_steps: Callable[[int], None] | None = None,
) -> list[Params]:
    """Parameters of a training from each seed, all in one program: what `fit` gives, to rounding.

    streams: one for each different seed, all of one length, or one for all. settings: values, one a member,
    of numeric settings in which the members differ (`ensemble.Members`), under which seeds may stand several
    times; parts: builds with those that are not the optimiser's. on_steps(step) is called after every
    dispatch. Raises ValueError for streams that do not fit the seeds, and what `ensemble_run` does.
    """
    found = train_members(
        model,
        streams,
        config,
        ensemble.Members(tuple(seeds), {name: tuple(each) for name, each in (settings or {}).items()}),
        batches=batches,
        objective=objective,
        parts=parts,
        on_steps=on_steps,
    )
    return [each.state.params for each in found]


def train_members(
    model: Model,
    streams: Sequence[Stream],
    config: TrainConfig,
    members: ensemble.Members,
    *,
    batches: Batches = Batches(),
    objective: Objective = window_loss,
    parts: ensemble.Parts | None = None,
    begin: Sequence[LoopState] | None = None,
    cuts: Iterable[tuple[int, int]] | None = None,
    check: ensemble.Check | None = None,
    on_steps: Callable[[int], None] | None = None,
) -> list[LoopState]:
    """The states of `fit_members`, a member each, at the end of `cuts`.

    begin: a state of each member to go on from, all of one step, in place of fresh ones. cuts, check: as in
    `ensemble_run`; what goes on equals what never stopped, bit for bit, where the cuts are the same.
    """
    seeds = members.seeds
    if len(streams) not in (1, len(set(seeds))) or len({stream.shape for stream in streams}) != 1:
        raise ValueError(
            f"expected one stream, or one of the same shape for each of {len(set(seeds))} seeds, got "
            f"{', '.join(str(stream.shape) for stream in streams) or 'none'}"
        )
    check_train(config)
    if batches.random_windows:
        raise ValueError("members of one program have windows of one length: train random_windows alone")
    place = {seed: min(i, len(streams) - 1) for i, seed in enumerate(dict.fromkeys(seeds))}
    length = len(streams[0])

    def plan_within(seed: int, epoch: int) -> Plan:
        found = batches.plan_of(length, seed, epoch)
        plan = found.rows(0, found.num_batches)
        return plan._replace(starts=plan.starts + np.int32(length * place[seed]))

    run = ensemble.ensemble_run(
        model,
        config,
        members,
        as_elements(np.concatenate(streams)),
        plan_within,
        batches.batch_size,
        batches.num_steps,
        objective,
        parts,
        begin=None if begin is None else ensemble.stack(begin),
        cuts=cuts,
        check=check,
    )
    for done in run:
        if on_steps is not None:
            on_steps(done.step)
    return [ensemble.member(done.loop_state, i) for i in range(len(seeds))]


def _steered(config: TrainConfig, loop_state: LoopState, record: Record, shardings: LoopState) -> LoopState:
    """The state after a record, whose validation loss may change the rate or begin an average."""
    loss = record.get("valid_loss")
    if loss is None or not is_validated(config):
        return loop_state
    opt_state, state = loop_state.state.opt_state, loop_state.state
    # The mean is large, and no evaluation changes it.
    seen = observe(config, processes.whole(without_mean(opt_state)), loss)
    seen = processes.put(seen, without_mean(shardings.state.opt_state))
    return loop_state._replace(state=state._replace(opt_state=with_mean(seen, mean_weights(opt_state))))


def _evaluate(evaluate: Evaluate, params: Params, step: int) -> dict[str, Any]:
    """The figures of process 0, which alone evaluates."""
    params = processes.whole(params)
    return processes.of_first(lambda: evaluate(params, step))


def _stopwatch() -> Clock:
    begun = time.monotonic()
    return lambda: time.monotonic() - begun


@lru_cache(maxsize=4)
def _programs(
    model: Model,
    config: TrainConfig,
    sizes: tuple[int, int, tuple[int, ...]],
    objective: Objective,
    mesh: Mesh,
) -> tuple[Callable[[PRNGKey], LoopState], Dispatch]:
    """The jitted initialisation and dispatch of a training; the same ones for each seed and stream."""
    batch_size, num_steps, lengths = sizes
    optimizer = optimizer_of(model, config, has_scale=bool(lengths))

    def init(key: PRNGKey) -> LoopState:
        return init_training(key, model, optimizer, batch_size)

    # What does not fit one device is spread from the first.
    placed = training_sharding(mesh, jax.eval_shape(init, jax.random.key(0)), config.shard)
    made_of = model, config, sizes, objective
    init = Program(init, made_of=made_of, out_shardings=placed if config.shard == "params" else None)
    how = {"num_parts": config.accumulate_steps, "mesh": mesh, "shard": config.shard, "lengths": lengths}
    return init, make_dispatch(model, optimizer, num_steps, objective, **how, made_of=made_of)

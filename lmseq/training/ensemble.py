"""Many trainings in one program: seeds, and values of the settings that are only numbers.

A `LoopState` of an ensemble has a leading axis S on every leaf. Its members know nothing of each other, so
they are shared out over the devices without any collective; how a device runs those that it has is chosen
by its kind: all at once (`vmap`) on an accelerator, which is idle with one small model; one after the other
(`lax.map`) on a CPU, where products of one member fill a core already and batched ones are slower.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.partition import Plan
from lmseq.training.feeding import Fed, HostStream, gather, put_stream
from lmseq.training.gradient import Objective, make_gradient
from lmseq.training.loop import Dispatched, NonFiniteLossError, PlanStream, advance, boundaries
from lmseq.training.optimizer import Number, optimizer_of
from lmseq.training.state import LoopState, init_training, split_key
from lmseq.training.train_step import StepMetrics, train_step, window_loss
from lmseq.types import Stream

# Settings that enter a step as numbers and nothing else: members may differ in them. Those of `TrainConfig`
# are the optimiser's; the others are for `Parts` to build with.
OPTIMIZER = ("learning_rate", "clip_norm", "weight_decay", "momentum")
NUMERIC = (*OPTIMIZER, "dropout", "input_noise", "sampling_rate")

# Model and objective of a member, from its numbers, which are traced.
Parts = Callable[[Mapping[str, Number]], tuple[Model, Objective]]
Check = Callable[[StepMetrics, int], None]  # of the metrics (S, steps) of a dispatch, and the step before it


class Members(NamedTuple):
    """What distinguishes the members: their seeds, and settings of NUMERIC with a value for each."""

    seeds: tuple[int, ...]
    settings: dict[str, tuple[float, ...]]


class NonFiniteMembersError(NonFiniteLossError):
    """Members whose loss is not finite; `steps` has the step of each, by its place among the members."""

    def __init__(self, message: str, steps: dict[int, int]) -> None:
        super().__init__(message)
        self.steps = steps


def check_members(members: Members, train: TrainConfig) -> Members:
    """Return them, or raise ValueError for a setting that is no number, or is missing or idle somewhere."""
    if not members.seeds:
        raise ValueError("expected at least one seed")
    if train.shard != "batch":
        raise ValueError(f"each member is whole on its device: shard={train.shard} is for one training alone")
    if train.plateau_patience or train.average != "none":
        raise ValueError(
            "expected neither plateau_patience nor average: members are not evaluated on the way, and an "
            "average is kept of one training alone"
        )
    for name, values in members.settings.items():
        if name not in NUMERIC:
            raise ValueError(f"expected settings out of {', '.join(NUMERIC)}, got {name!r}: train it apart")
        if len(values) != len(members.seeds):
            raise ValueError(f"expected {len(members.seeds)} values of {name}, one a seed, got {len(values)}")
        if name in OPTIMIZER and not getattr(train, name):
            raise ValueError(f"{name} is switched off in the common settings: no member can have it")
        if not all(0 < value < np.inf for value in values):
            raise ValueError(f"expected values of {name} above 0, got {values}")
    return members


def make_member_mesh(num_members: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """As many devices as share the members out evenly, in a mesh with one axis, `member`."""
    devices = jax.devices() if devices is None else devices
    count = max(n for n in range(1, len(devices) + 1) if num_members % n == 0)
    return jax.make_mesh((count,), ("member",), axis_types=(AxisType.Auto,), devices=devices[:count])


def _by_member(mesh: Mesh, work: Callable[..., Any], num_shared: int = 0) -> Callable[..., Any]:
    """`work` of one member as a program of all: arguments and results (S, ...), the last few shared."""
    at_once = mesh.devices.flat[0].platform != "cpu"

    def here(members, shared):
        def one(member):
            return work(*member, *shared)

        return jax.vmap(one)(members) if at_once else lax.map(one, members)

    split, whole = PartitionSpec("member"), PartitionSpec()
    shares = jax.shard_map(here, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)

    def program(*arguments):
        cut = len(arguments) - num_shared
        return shares(arguments[:cut], arguments[cut:])

    return program


def make_program(
    model: Model,
    train: TrainConfig,
    num_steps: int,
    mesh: Mesh,
    objective: Objective = window_loss,
    parts: Parts | None = None,
) -> Callable[..., Any]:
    """The jitted dispatch of all members, on a mesh of `make_member_mesh`; the training state is donated.

    Of loop states, plans, keys and settings, each with a leading axis S, and the stream: the loop states and
    the metrics. parts: as in `ensemble_run`.
    """

    def dispatch(loop_state, plan, key, settings, tokens):
        built = parts(settings) if parts else (model, objective)
        gradient = make_gradient(*built, num_steps, num_parts=train.accumulate_steps)
        step = partial(train_step, gradient, optimizer_of(model, train, settings))
        return lax.scan(lambda loop_state, row: step(loop_state, tokens, row, key), loop_state, plan)

    return jax.jit(_by_member(mesh, dispatch, num_shared=1), donate_argnums=0)


def ensemble_run(
    model: Model,
    train: TrainConfig,
    members: Members,
    stream: Stream,
    plan_of: Callable[[int, int], Plan],
    batch_size: int,
    num_steps: int,
    objective: Objective = window_loss,
    parts: Parts | None = None,
    *,
    begin: LoopState | None = None,
    cuts: Iterable[tuple[int, int]] | None = None,
    check: Check | None = None,
) -> Iterator[Dispatched]:
    """Train all members to train.num_train_steps, yielding after each dispatch.

    plan_of(seed, epoch) gives a member's batches. Member i is initialised and trained as `seeds[i]` alone
    would be with its settings in place of the common ones, and ends with the same parameters, to rounding.
    parts: builds with settings that are not the optimiser's; without it all have this model and objective.
    begin: states (S, ...) to go on from, all of one step, in place of fresh ones. cuts: the dispatches, as
    pairs (first step, end), in place of those of the whole training; the schedule is that of num_train_steps
    wherever they end. check: what looks at the metrics of a dispatch; without it NonFiniteMembersError,
    naming the first, is raised for members whose loss is not finite. What is yielded has a leading axis S; a
    yielded state is donated to the next dispatch. Raises ValueError for members that do not fit.
    """
    check_members(members, train)
    if parts is None and set(members.settings) - set(OPTIMIZER):
        raise ValueError(f"expected parts to build with for {', '.join(members.settings)}")
    mesh = make_member_mesh(len(members.seeds))
    split, whole = NamedSharding(mesh, PartitionSpec("member")), NamedSharding(mesh, PartitionSpec())
    keys = jax.vmap(split_key)(np.asarray(members.seeds, np.uint32))
    train_keys = jax.device_put(keys.train, split)
    settings = {name: np.asarray(values, np.float32) for name, values in members.settings.items()}

    def init(key, settings):
        return init_training(key, model, optimizer_of(model, train, settings), batch_size)

    if begin is None:
        begin = jax.jit(partial(lax.map, lambda one: init(*one)))((keys.init, settings))
    # Waited for, as is each dispatch: on virtual devices of a CPU, programs over several must not queue up.
    loop_state = jax.block_until_ready(jax.device_put(begin, split))
    settings = jax.device_put(settings, split)
    program = make_program(model, train, num_steps, mesh, objective, parts)
    tokens = put_stream(stream, num_steps, mesh)
    plans = [PlanStream(partial(plan_of, seed)) for seed in members.seeds]

    def stacked(start: int, stop: int) -> Fed:
        rows = [batches.slice(start, stop) for batches in plans]
        plan = Plan(*(np.stack(leaves) for leaves in zip(*rows, strict=True)))
        if isinstance(tokens, HostStream):
            return jax.device_put(gather(tokens, plan), Fed(whole, split))
        return Fed(tokens, jax.device_put(plan, split))

    yield from advance(
        boundaries(0, train.num_train_steps, train.steps_per_dispatch) if cuts is None else cuts,
        stacked,
        lambda loop_state, fed: program(loop_state, fed.plan, train_keys, settings, fed.stream),
        check or partial(_check_finite, members),
        loop_state,
    )


def non_finite(metrics: StepMetrics, first_step: int) -> dict[int, int]:
    """Of members whose loss or gradient is not finite in a dispatch after `first_step`: the step of each."""
    fine = np.isfinite(metrics.totals.nll) & np.isfinite(metrics.grad_norm)
    bad = np.flatnonzero(~fine.all(axis=1))
    return {int(each): first_step + 1 + int(np.argmin(fine[each])) for each in bad}


def _check_finite(members: Members, metrics: StepMetrics, first_step: int) -> None:
    bad = non_finite(metrics, first_step)
    if bad:
        member, step = next(iter(bad.items()))
        settings = "".join(f", {name} {values[member]}" for name, values in members.settings.items())
        raise NonFiniteMembersError(
            f"the loss or its gradient is not finite at step {step} of seed "
            f"{members.seeds[member]}{settings}: lower learning_rate or clip_norm",
            bad,
        )


def stack(states: Sequence[LoopState]) -> LoopState:
    """States of members as one, with a leading axis S; the inverse of `member`. On the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)


def member(loop_state: LoopState, index: int) -> LoopState:
    """The state of one member, on the default device."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[index])), loop_state)

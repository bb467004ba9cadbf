"""The gradient of an objective over a batch: shared out over the devices of a mesh, or taken in parts.

Every device computes its own rows; losses, counts and gradients are summed over the devices and divided
once, so that shares whose masks differ count as they should. Nothing else is sent, but for parameters that
are spread over the devices: those are gathered before they are used, and each device keeps the sum of its
piece of the gradient alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from lmseq.config.training import Shard
from lmseq.contract import Model
from lmseq.data.partition import Plan, take_batch
from lmseq.noise import share_key
from lmseq.training.sharding import ROWS, state_spec
from lmseq.types import Batch, Carry, NllTotals, Params, PRNGKey, Stream


class StepInfo(NamedTuple):
    """The step being computed: its number, its own key, and whether the carry is reset."""

    number: Int[Array, ""]
    key: PRNGKey
    reset: Bool[Array, ""]


class Losses(NamedTuple):
    """What an objective makes of some rows, as sums, which add up over the rows of a batch.

    minimised: the loss is the sum over the count, of the whole batch. carry: the rows' next one. reported:
    what the records show.
    """

    minimised: NllTotals
    carry: Carry
    reported: NllTotals


# What is minimised, of model, parameters, and some rows' carry and batch.
Objective = Callable[[Model, Params, Carry, Batch, StepInfo], Losses]

# Of parameters, carry, stream, a row of the plan and the step: the gradient of the mean loss, the next carry
# and the totals to report.
Gradient = Callable[[Params, Carry, Stream, Plan, StepInfo], tuple[Params, Carry, NllTotals]]


def make_gradient(
    model: Model,
    objective: Objective,
    num_steps: int,
    *,
    num_parts: int = 1,
    mesh: Mesh | None = None,
    shard: Shard = "batch",
) -> Gradient:
    """The gradient over windows of `num_steps` inputs, the batch computed in so many parts one after another.

    mesh: its devices share the rows out, in order; without it, or of one device, the program has no
    collective. shard: how the parameters are placed, as `training_sharding` takes it. A row's noise is the
    same however the batch is shared out, where it is drawn by rows (`lmseq.noise.by_rows`).
    """
    num_devices = 1 if mesh is None else mesh.size
    over_rows = partial(_over_rows, partial(objective, model), num_parts)

    def alone(params: Params, carry: Carry, tokens: Stream, row: Plan, step: StepInfo):
        batch = take_batch(tokens, row.starts, row.lengths, num_steps)
        return over_rows(_Share(0, len(row.starts), lambda sums: sums), params, carry, batch, step)

    def on_a_device(specs: Any, params: Params, carry: Carry, tokens: Stream, row: Plan, step: StepInfo):
        batch, num_rows = take_batch(tokens, row.starts, row.lengths, num_steps), len(row.starts)
        share = _Share(
            num_rows * lax.axis_index(ROWS), num_rows * num_devices, lambda sums: lax.psum(sums, ROWS)
        )
        gathered = jax.tree.map(_gathered, params, specs)
        slopes, carry, totals = over_rows(share, gathered, carry, batch, step)
        return jax.tree.map(_summed, slopes, specs), carry, totals

    def shared(params: Params, carry: Carry, tokens: Stream, row: Plan, step: StepInfo):
        specs = jax.tree.map(lambda leaf: state_spec(mesh, leaf.shape, shard), params)
        rows, whole = PartitionSpec(ROWS), PartitionSpec()
        return jax.shard_map(
            partial(on_a_device, specs),
            mesh=mesh,
            in_specs=(specs, rows, whole, Plan(rows, rows, whole), whole),
            out_specs=(specs, rows, whole),
            check_vma=False,
        )(params, carry, tokens, row, step)

    return alone if num_devices == 1 else shared


def by_length(make: Callable[[int], Gradient], lengths: tuple[int, ...]) -> Gradient:
    """The gradient over windows of the shortest of some lengths, in increasing order, that holds the batch's.

    make: the gradient over windows of so many inputs, which each length has in the program.
    """
    gradients = [make(length) for length in lengths]

    def gradient(params: Params, carry: Carry, tokens: Stream, row: Plan, step: StepInfo):
        which = jnp.searchsorted(jnp.asarray(lengths), jnp.max(row.lengths))
        return lax.switch(which, gradients, params, carry, tokens, row, step)

    return gradient


class _Share(NamedTuple):
    """Which rows of a batch are here: the first, how many there are in all; and the sum over all shares."""

    first_row: int | Int[Array, ""]
    num_rows: int
    total: Callable[[Any], Any]


def _over_rows(
    objective: Callable[..., Losses],
    num_parts: int,
    share: _Share,
    params: Params,
    carry: Carry,
    batch: Batch,
    step: StepInfo,
) -> tuple[Params, Carry, NllTotals]:
    """The rows' part of the gradient of the whole batch's mean loss, their carry, and the totals of all."""
    size = len(batch.mask) // num_parts

    def pull_back(carry: Carry, batch: Batch, first_row: int | Int[Array, ""]):
        """From a slope of the summed loss to that of the parameters; and the sums."""
        key = step.key
        if size < share.num_rows:
            key = share_key(key, share.first_row + first_row, share.num_rows)

        def summed(params: Params) -> tuple[Float[Array, ""], Losses]:
            losses = objective(params, carry, batch, step._replace(key=key))
            return losses.minimised.nll, losses

        _, back, losses = jax.vjp(summed, params, has_aux=True)
        return lambda slope: back(slope)[0], losses

    def mean_slope(count: Int[Array, ""]) -> Float[Array, ""]:
        return 1.0 / jnp.maximum(share.total(count), 1)

    if num_parts == 1:
        back, losses = pull_back(carry, batch, 0)
        return back(mean_slope(losses.minimised.count)), losses.carry, share.total(losses.reported)

    # What to divide by is known after the last part, so the parts' slopes are those of the sum.
    def add(sums: Any, part: Any) -> tuple[Any, Carry]:
        back, losses = pull_back(*part)
        more = back(jnp.ones(())), losses.minimised.count, losses.reported
        return jax.tree.map(jnp.add, sums, more), losses.carry

    parts = jax.tree.map(lambda leaf: leaf.reshape(num_parts, size, *leaf.shape[1:]), (carry, batch))
    nothing = jnp.zeros((), jnp.int32)
    sums = jax.tree.map(jnp.zeros_like, params), nothing, NllTotals(jnp.zeros(()), nothing)
    (slopes, count, reported), carries = lax.scan(add, sums, (*parts, size * jnp.arange(num_parts)))
    slope = mean_slope(count)
    slopes = jax.tree.map(lambda leaf: slope * leaf, slopes)
    carry = jax.tree.map(lambda leaf: leaf.reshape(num_parts * size, *leaf.shape[2:]), carries)
    return slopes, carry, share.total(reported)


def _gathered(leaf: Array, spec: PartitionSpec) -> Array:
    """A parameter in full, from the pieces that the devices have of it."""
    if ROWS not in spec:
        return leaf
    return lax.all_gather(leaf, ROWS, axis=spec.index(ROWS), tiled=True)


def _summed(leaf: Array, spec: PartitionSpec) -> Array:
    """The sum over the devices; of a spread parameter, the device's own piece of it."""
    if ROWS not in spec:
        return lax.psum(leaf, ROWS)
    return lax.psum_scatter(leaf, ROWS, scatter_dimension=spec.index(ROWS), tiled=True)

"""A mesh over all devices: the batch axis shared out, the state on every device or spread over them.

One device is the same code.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmseq.config.training import Shard, check_shares
from lmseq.data.partition import Plan
from lmseq.training.state import LoopState

ROWS = "batch"  # the axis of a mesh that rows of a batch are shared out over


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh named `batch`, over all devices unless some are given."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (ROWS,), axis_types=(AxisType.Auto,), devices=devices)


def check_batch(mesh: Mesh, batch_size: int, num_parts: int = 1) -> None:
    """Raise ValueError unless every device gets the same number of rows, in so many equal parts."""
    check_shares(batch_size, mesh.size, num_parts)


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device in full."""
    return NamedSharding(mesh, PartitionSpec())


def state_spec(mesh: Mesh, shape: tuple[int, ...], shard: Shard) -> PartitionSpec:
    """Where an array of the training state lies: in full on every device, or spread over them.

    With shard `params` it is spread along its largest axis that the devices divide, the first of equal ones;
    an array without one is on every device.
    """
    divided = [axis for axis, size in enumerate(shape) if size and size % mesh.size == 0]
    if shard == "batch" or not divided:
        return PartitionSpec()
    widest = max(divided, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * widest, ROWS)


def training_sharding(mesh: Mesh, loop_state: LoopState, shard: Shard = "batch") -> LoopState:
    """The sharding of each leaf of a `LoopState`: the state by `state_spec`, the carry by rows."""
    rows = NamedSharding(mesh, PartitionSpec(ROWS))
    return LoopState(
        jax.tree.map(lambda leaf: NamedSharding(mesh, state_spec(mesh, leaf.shape, shard)), loop_state.state),
        jax.tree.map(lambda _: rows, loop_state.carry),
    )


def plan_sharding(mesh: Mesh) -> Plan:
    """Starts and lengths (steps, batch) by rows, resets on every device."""
    rows = NamedSharding(mesh, PartitionSpec(None, ROWS))
    return Plan(rows, rows, replicated(mesh))

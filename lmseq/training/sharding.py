"""A mesh over all devices: parameters on every one, the batch axis shared out.

One device is the same code.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmseq.config.training import check_shares
from lmseq.data.partition import Plan
from lmseq.training.state import LoopState


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh named `batch`, over all devices unless some are given."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)


def check_batch(mesh: Mesh, batch_size: int) -> None:
    """Raise ValueError unless every device gets the same number of rows."""
    check_shares(batch_size, mesh.size)


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device in full."""
    return NamedSharding(mesh, PartitionSpec())


def training_sharding(mesh: Mesh, loop_state: LoopState) -> LoopState:
    """The sharding of each leaf of a `LoopState`: the state in full, the carry by rows."""
    rows = NamedSharding(mesh, PartitionSpec("batch"))
    return LoopState(
        jax.tree.map(lambda _: replicated(mesh), loop_state.state),
        jax.tree.map(lambda _: rows, loop_state.carry),
    )


def plan_sharding(mesh: Mesh) -> Plan:
    """Starts and lengths (steps, batch) by rows, resets on every device."""
    rows = NamedSharding(mesh, PartitionSpec(None, "batch"))
    return Plan(rows, rows, replicated(mesh))

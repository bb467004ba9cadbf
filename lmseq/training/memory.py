"""Whether a training fits in memory: asked before it begins, as XLA would hang or abort in the middle."""

import math
import os
from collections.abc import Mapping

import jax

from lmseq.config.training import Shard
from lmseq.contract import Model
from lmseq.models.interface import count_parameters

BYTES_A_PARAMETER = 16  # the value, its gradient and Adam's two moments, float32
# Of a parameter that is spread: in full, the value and its gradient in a step; shared out, value and moments.
BYTES_IN_USE, BYTES_SPREAD = 8, 12


def physical_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available() -> int:
    """Bytes of memory of the device that computes."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit") or physical_memory()


def check_memory(model: Model, num_members: int = 1, shard: Shard = "batch") -> None:
    """Raise ValueError for a model whose training would need more memory than the device has.

    num_members: trainings of it in one program, which may fill half of the memory, as their states are
    copied. shard: whether the state is spread over the devices.
    """
    num_parameters = count_parameters(jax.eval_shape(model.init, jax.random.key(0)))
    there, each = _available(), BYTES_A_PARAMETER
    if shard == "params" and jax.device_count() > 1:
        each = BYTES_IN_USE + -(-BYTES_SPREAD // jax.device_count())
    if each * num_parameters > there:
        raise ValueError(
            f"training {num_parameters:,} parameters takes {each} bytes of memory for each, and "
            f"there are {there / 2**30:.1f} GiB: make the model smaller, by "
            "hidden_size, num_layers or embedding_size"
        )
    if num_members > 1 and num_members > most_members(model):
        raise ValueError(f"{num_members} trainings of {num_parameters:,} parameters do not fit in memory")


def most_members(model: Model) -> int:
    """How many trainings of a model one program can hold: as many as half of the memory has room for."""
    num_parameters = count_parameters(jax.eval_shape(model.init, jax.random.key(0)))
    return _available() // (2 * BYTES_A_PARAMETER * max(1, num_parameters))


def check_carries(model: Model, rows: Mapping[str, int]) -> None:
    """Raise ValueError where carries of so many rows would need more memory than the device has.

    rows: how many are held at once, by the name of the setting that says so. The carry of attention grows
    with its window and its layers, and that of a matrix state with the product of its sizes.
    """
    params = jax.eval_shape(model.init, jax.random.key(0))
    carry = jax.eval_shape(lambda params: model.init_carry(params, 1), params)
    each = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry))
    there = _available()
    for name, number in rows.items():
        if each * number > there:
            raise ValueError(
                f"the carries of {number:,} rows ({name}) take {each:,} bytes each, {each * number:,} in "
                f"all, and there are {there:,}: make {name} smaller, or the carry, by window, hidden_size or "
                "num_layers"
            )

"""Whether a training fits in memory: asked before it begins, as XLA would hang or abort in the middle."""

import os

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


def check_memory(model: Model, num_members: int = 1, shard: Shard = "batch") -> None:
    """Raise ValueError for a model whose training would need more memory than the device has.

    num_members: trainings of it in one program, which may fill half of the memory, as their states are
    copied. shard: whether the state is spread over the devices.
    """
    num_parameters = count_parameters(jax.eval_shape(model.init, jax.random.key(0)))
    there = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit") or physical_memory()
    each = BYTES_A_PARAMETER
    if shard == "params" and jax.device_count() > 1:
        each = BYTES_IN_USE + -(-BYTES_SPREAD // jax.device_count())
    if each * num_parameters > there:
        raise ValueError(
            f"training {num_parameters:,} parameters takes {each} bytes of memory for each, and "
            f"there are {there / 2**30:.1f} GiB: make the model smaller, by "
            "hidden_size, num_layers or embedding_size"
        )
    if num_members > 1 and 2 * BYTES_A_PARAMETER * num_parameters * num_members > there:
        raise ValueError(f"{num_members} trainings of {num_parameters:,} parameters do not fit in memory")

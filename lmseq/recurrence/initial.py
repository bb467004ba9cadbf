"""The weights that a recurrent layer begins with."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.recurrence.cells.cell import Cell
from lmseq.types import PRNGKey


def input_bias(cell: Cell, hidden_size: int) -> Float[Array, "gates"]:
    """Zeros, or for each gate the number at which the cell has its bias start."""
    if not cell.input_bias:
        return jnp.zeros(cell.num_gates * hidden_size)
    return jnp.repeat(jnp.asarray(cell.input_bias), hidden_size)


def recurrent_kernel(key: PRNGKey, cell: Cell, hidden_size: int) -> Float[Array, "hidden gates"]:
    """U, one orthogonal block a gate: powers of it neither explode nor vanish (Saxe et al. 2014)."""
    block = jax.nn.initializers.orthogonal()
    keys = jax.random.split(key, cell.num_gates)
    by_gate = jax.vmap(lambda key: block(key, (hidden_size,) * 2))(keys)
    return jnp.swapaxes(by_gate, 0, 1).reshape(hidden_size, -1)


def recurrent_bias(key: PRNGKey, cell: Cell, hidden_size: int) -> Float[Array, "hidden"]:
    """The bias inside the loop: zeros, or as the cell draws it."""
    return jnp.zeros(hidden_size) if cell.first_bias is None else cell.first_bias(key, hidden_size)

"""The derivative of a whole sequence of steps of a cell that has it written out.

Differentiating the scan accumulates each weight's gradient inside the loop and recomputes or stores every
intermediate value. Here the backward loop carries what is truly sequential and nothing else. The deltas of
the gates are linear in the gradients that come back through time,

    delta_t = P_t * (dh_t or dc_t),    dh_{t-1} = delta_t U^T + ...

with factors P_t of the forward pass alone, so all factors are computed at once before the loop, and the
weights' gradient, sum_t h_{t-1}^T delta_t, is one product after it. The formulas of P_t stand with each cell.
Arrays inside are time-major (T, B, ...), as a scan wants them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.layers import Precision, matmul_along, product_over_rows, rounded
from lmseq.recurrence import native
from lmseq.recurrence.cells.cell import (
    Cell,
    Gates,
    Inputs,
    LayerState,
    LayerStates,
    Recurrent,
    State,
    Steps,
)

Loop = Literal["scan", "native"]


def _by(loop: Loop, scan: Callable[..., Any], compiled: Callable[..., Any], *arguments: Any) -> Any:
    """What the loop's function makes of the arguments; where no CPU is compiled for it is XLA's."""
    if loop == "scan":
        return scan(*arguments)
    types = jax.eval_shape(compiled, *arguments)

    def scan_of_types(*arguments: Any) -> Any:
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), scan(*arguments), types)

    return lax.platform_dependent(*arguments, cpu=compiled, default=scan_of_types)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def unroll(
    cell: Cell, precision: Precision, loop: Loop, weights: Recurrent, state: LayerState, inputs: Inputs
) -> tuple[LayerState, Steps]:
    """The scan of the cell's step over projected inputs: last state, outputs (T, B, H).

    The cell has a `derivative`. The loops, forward and backward, are XLA's (`scan`) or compiled beforehand
    (`native`), for a cell that has those, where the program is one for a CPU.
    """

    def scan(weights: Recurrent, state: LayerState, inputs: Inputs) -> tuple[LayerState, Steps]:
        inner = weights._replace(kernel=rounded(weights.kernel, precision))

        def step(state: LayerState, x: Gates) -> tuple[LayerState, State]:
            state = cell.step(inner, state, x, precision)
            return state, cell.output(state)

        return lax.scan(step, state, inputs.steps())

    def compiled(*arguments: Any) -> tuple[LayerState, Steps]:
        return native.forward(cell, precision, *arguments, keep=False)[:2]

    return _by(loop, scan, compiled, weights, state, inputs)


class Residuals(NamedTuple):
    """What the backward pass needs: initial state, all states, and what was kept of every step.

    inputs: without their rows, of which it needs the number and the type.
    """

    inputs: Inputs
    weights: Recurrent
    initial: LayerState
    states: LayerStates
    kept: Any


def _forward(cell, precision, loop, weights, state, inputs):
    def scan(weights, state, inputs):
        inner = weights._replace(kernel=rounded(weights.kernel, precision))

        def step(state, x):
            state, kept = cell.derivative.step(inner, state, x, precision)
            return state, (state, kept)

        last, (states, kept) = lax.scan(step, state, inputs.steps())
        return last, cell.output(states), (states, kept)

    def compiled(*arguments):
        return native.forward(cell, precision, *arguments, keep=True)

    last, outputs, kept = _by(loop, scan, compiled, weights, state, inputs)
    no_rows = inputs._replace(rows=inputs.rows[..., :0])
    return (last, outputs), Residuals(no_rows, weights, state, *kept)


def _backward(cell, precision, loop, residuals, cotangents):
    inputs, weights, initial, states, _ = residuals
    d_last, d_outputs = cotangents
    hidden, first = cell.output(states), cell.output(initial)

    def scan(weights, initial, states, kept, *d_arguments):
        if loop == "native":  # they may be less exact there
            kept = jax.tree.map(lambda leaf: leaf.astype(hidden.dtype), kept)
        return cell.derivative.deltas(_back(weights, precision), initial, states, kept, *d_arguments)

    compiled = partial(native.deltas, cell, precision)
    deltas, d_xs, d_state = _by(loop, scan, compiled, *residuals[1:], d_last, d_outputs)
    d_kernel, total = product_over_rows(_matrix(hidden), _matrix(deltas), precision, before=first)
    d_bias = None
    if weights.bias is not None:  # of the GRU, whose sum of some columns is not rounded as that of all is
        d_bias = jnp.sum(deltas[:, :, -weights.bias.size :].astype(weights.bias.dtype), axis=(0, 1))
    d_inputs = inputs.slopes(deltas, precision, total) if d_xs is None else inputs.slopes(d_xs, precision)
    return Recurrent(d_kernel, d_bias), d_state, d_inputs


def _back(weights: Recurrent, precision: Precision) -> Callable[[Gates], State]:
    """delta U^T, as a function of delta."""
    transposed = rounded(weights.kernel.T, precision)
    return lambda delta: matmul_along(delta, transposed, 1, 0, precision)


unroll.defvjp(_forward, _backward)


def _matrix(steps: Steps) -> Float[Array, "rows hidden"]:
    return steps.reshape(-1, steps.shape[-1])

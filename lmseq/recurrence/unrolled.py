"""A layer over time: the reference scan, and the fastest form that equals it.

Arrays are time-major here, (T, B, ...): a scan takes the first axis, and a stack of layers transposes once
below the first and once above the last.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from lmseq.layers import Precision
from lmseq.recurrence import cudnn, derivative, library
from lmseq.recurrence.cells.cell import (
    Cell,
    Gates,
    GateSteps,
    Inputs,
    LayerState,
    LayerStates,
    Recurrent,
    State,
    Steps,
)
from lmseq.recurrence.linear import linear_states

Backend = Literal["auto", "scan", "native", "cudnn"]


def scan_states(cell: Cell, weights: Recurrent | None, state: LayerState, xs: GateSteps) -> LayerStates:
    """The definition: the state after each projected input of (T, B, G * H), every leaf (T, B, H)."""

    def step(state: LayerState, x: Gates) -> tuple[LayerState, LayerState]:
        state = cell.step(weights, state, x, "float32")
        return state, state

    return lax.scan(step, state, xs)[1]


def unroll_layer(
    cell: Cell,
    weights: Recurrent | None,
    state: LayerState,
    inputs: GateSteps | Inputs,
    precision: Precision = "float32",
    backend: Backend = "auto",
) -> tuple[LayerState, Steps]:
    """Last state and outputs (T, B, H) of one layer, in a form that equals `scan_states` and is faster.

    inputs: projected ones (T, B, G * H), or their parts, of which compiled loops make no such array.

    A linear recurrence takes the form that suits the device, a cell with a written-out derivative takes that,
    and any other cell is the scan of its step, which JAX differentiates.

    backend: whose loops a cell with compiled loops runs in; scan, XLA's; native, those of `cpp/`, which are
    for arrays of float32 on a CPU; auto, native ones where they are loaded and what is traced is one device's
    program, as XLA cannot share their batch out; cudnn, for inputs that are projected already, is as auto. A
    program for anything but a CPU has XLA's in their place. Raises ValueError for native ones that are not
    loaded, or that the cell does not have, and for a bias of the inputs that is not (G * H,).

    auto is decided while JAX traces, by what is true of the process then: whether `library.load` was called
    and how many devices there are. A program that was compiled before a change of these stays as it was.
    """
    if backend == "native" and cell.native is None:
        raise ValueError(f"cell {cell.name} has no compiled loops: choose backend auto or scan")
    if not isinstance(inputs, Inputs):
        inputs = Inputs(inputs)
    if inputs.bias is not None and inputs.bias.shape != inputs.rows.shape[-1:]:
        raise ValueError(f"expected a bias {inputs.rows.shape[-1:]} as rows have, got {inputs.bias.shape}")
    if cell.coefficients is not None:
        outputs = linear_states(*cell.coefficients(weights, inputs.steps()), state)
        return outputs[-1], outputs
    if cell.derivative is None:
        return _scan_layer(cell, weights, state, inputs.steps(), precision)
    loop = _loop(cell, backend, inputs, precision, weights, state)
    return derivative.unroll(cell, precision, loop, weights, state, inputs)


def _scan_layer(
    cell: Cell, weights: Recurrent | None, state: LayerState, xs: GateSteps, precision: Precision
) -> tuple[LayerState, Steps]:
    """The scan of the step, for the outputs alone; the kernel is not rounded, so that its gradient is not."""

    def step(state: LayerState, x: Gates) -> tuple[LayerState, State]:
        state = cell.step(weights, state, x, precision)
        return state, cell.output(state)

    return lax.scan(step, state, xs)


def check_backend(backend: Backend, precision: Precision) -> None:
    """Raise ValueError unless the backend is there."""
    if backend == "native" and jax.default_backend() != "cpu":
        raise ValueError(
            f"backend native is for a CPU, this is a {jax.default_backend()}: choose auto or scan"
        )
    if backend == "native" and not library.is_loaded(precision):
        reason = (
            f"this processor has no {precision} products" if library.is_loaded() else "they are not there"
        )
        raise ValueError(
            f"expected the compiled loops of backend native, {reason}: `make native` compiles them, "
            "and backend auto or scan does without"
        )
    if backend == "cudnn" and not (cudnn.is_there() and precision != "bfloat16"):
        reason = "takes float32 or tf32" if precision == "bfloat16" else "needs a GPU that has it"
        raise ValueError(f"backend cudnn {reason}: choose another, or backend auto")


def takes_cudnn(cell: Cell, precision: Precision, backend: Backend) -> bool:
    """Whether a layer over inputs that are not projected yet is cuDNN's, which the LSTM alone can be.

    auto: in float32 or tf32, in one device's program: neither can XLA share the kernel's batch out, nor can
    it run the members of an ensemble at once.
    """
    if backend == "cudnn":
        if not cell.is_cudnn_lstm:
            raise ValueError(f"backend cudnn is for cell lstm, got {cell.name}: choose backend auto or scan")
        check_backend(backend, precision)
        return True
    suits = backend == "auto" and cell.is_cudnn_lstm and precision != "bfloat16"
    axes = library.shared_axes()
    alone = jax.device_count() == 1 if not axes else "member" not in axes
    return suits and alone and cudnn.is_there()


def _loop(
    cell: Cell, backend: Backend, inputs: Inputs, precision: Precision, *others: Recurrent | LayerState
) -> derivative.Loop:
    """Compiled loops or XLA's, by the state of the process while JAX traces (see `unroll_layer`)."""
    if backend == "native":
        check_backend(backend, precision)
    if backend in ("auto", "cudnn"):
        # On a GPU they would not run, and round what XLA's loop keeps for its derivative.
        arrays = jax.tree.leaves((inputs.rows, inputs.bias, others))
        suits = jax.default_backend() == "cpu" and library.suits(precision, *arrays)
        if inputs.ids is not None:
            suits = suits and library.suits(precision, inputs.ids, types=(jnp.int32,))
        backend = "native" if cell.native is not None and suits else "scan"
    return backend if inputs.time else "scan"

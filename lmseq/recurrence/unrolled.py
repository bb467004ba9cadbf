"""A layer over time: the reference scan, and the fastest form that equals it.

Arrays are time-major here, (T, B, ...): a scan takes the first axis, and a stack of layers transposes once
below the first and once above the last.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.dense import Precision
from lmseq.recurrence import derivative, native
from lmseq.recurrence.cells import (
    CellKind,
    Gates,
    LayerState,
    LayerStates,
    Recurrent,
    cell_step,
    linear_coefficients,
)
from lmseq.recurrence.linear import linear_states

Backend = Literal["auto", "scan", "native"]


def scan_states(
    kind: CellKind,
    weights: Recurrent | None,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
) -> LayerStates:
    """The definition: the state after each projected input of (T, B, G * H), every leaf (T, B, H)."""

    def step(state: LayerState, x: Gates) -> tuple[LayerState, LayerState]:
        state = cell_step(kind, weights, state, x)
        return state, state

    return lax.scan(step, state, xs)[1]


def unroll_layer(
    kind: CellKind,
    weights: Recurrent | None,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
    precision: Precision = "float32",
    backend: Backend = "auto",
) -> tuple[LayerState, Float[Array, "time batch hidden"]]:
    """Last state and outputs (T, B, H) of one layer, in a form that equals `scan_states` and is faster.

    backend: whose loops a tanh RNN, GRU or LSTM runs in; scan, XLA's; native, those of `native.cc`, which
    are for float32 on a CPU; auto, native ones where they are loaded and every program has its own device,
    as XLA cannot share their batch out. Raises ValueError for native ones that are not loaded.
    """
    if kind in ("mingru", "minlstm"):
        outputs = linear_states(*linear_coefficients(kind, xs), state)
        return outputs[-1], outputs
    return derivative.unroll(kind, precision, _loop(backend, xs, precision), weights, state, xs)


def check_backend(backend: Backend, precision: Precision) -> None:
    """Raise ValueError unless the backend is there."""
    if backend == "native" and not native.is_loaded(precision):
        reason = f"this processor has no {precision} products" if native.is_loaded() else "they are not there"
        raise ValueError(
            f"expected the compiled loops of backend native, {reason}: `make native` compiles them, "
            "and backend auto or scan does without"
        )


def _loop(backend: Backend, xs: Array, precision: Precision) -> derivative.Loop:
    check_backend(backend, precision)
    if not len(xs):
        return "scan"
    if backend == "auto":
        alone = jax.device_count() == 1 or bool(jax.sharding.get_abstract_mesh().manual_axes)
        suits = jax.default_backend() == "cpu" and xs.dtype == jnp.float32
        backend = "native" if native.is_loaded(precision) and suits and alone else "scan"
    return backend

"""A layer over time: the reference scan, and the fastest form that equals it.

Arrays are time-major here, (T, B, ...): a scan takes the first axis, and a stack of layers transposes once
below the first and once above the last.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.layers import Precision
from lmseq.recurrence import cudnn, derivative, native
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

Backend = Literal["auto", "scan", "native", "cudnn"]


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

    backend: whose loops a tanh RNN, GRU or LSTM runs in; scan, XLA's; native, those of `cpp/`, which
    are for float32 on a CPU; auto, native ones where they are loaded and every program has its own device,
    as XLA cannot share their batch out; cudnn, for inputs that are projected already, is as auto. Raises
    ValueError for native ones that are not loaded.
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
    if backend == "cudnn" and not (cudnn.is_there() and precision != "bfloat16"):
        reason = "takes float32 or tf32" if precision == "bfloat16" else "needs a GPU that has it"
        raise ValueError(f"backend cudnn {reason}: choose another, or backend auto")


def takes_cudnn(kind: CellKind, precision: Precision, backend: Backend) -> bool:
    """Whether a layer over inputs that are not projected yet is cuDNN's.

    auto: an LSTM in float32 or tf32, where a program has its GPU to itself: neither can XLA share the
    kernel's batch out, nor can it run the members of an ensemble at once.
    """
    if backend == "cudnn":
        check_backend(backend, precision)
        return kind == "lstm"
    suits = backend == "auto" and kind == "lstm" and precision != "bfloat16"
    return suits and jax.device_count() == 1 and not _within_shard() and cudnn.is_there()


def _within_shard() -> bool:
    """Whether what is traced is one device's part of a program over several."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _loop(backend: Backend, xs: Array, precision: Precision) -> derivative.Loop:
    if backend == "native":
        check_backend(backend, precision)
    if backend in ("auto", "cudnn"):
        alone = jax.device_count() == 1 or _within_shard()
        suits = jax.default_backend() == "cpu" and xs.dtype == jnp.float32
        backend = "native" if native.is_loaded(precision) and suits and alone else "scan"
    return backend if len(xs) else "scan"

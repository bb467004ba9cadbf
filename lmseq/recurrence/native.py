"""The loops of `cpp/`, of layers and of attention: compiled once, then called from XLA's programs on a CPU.

Optional: everything runs without them. `LIBRARY.compile` needs a C++ compiler; `load` makes what it left
known to JAX, for the rest of the process. `forward` and `deltas` equal the scans of
`lmseq/recurrence/derivative.py`, whose formulas they follow, in float32. They are for cells with a `native`.
What calls those of attention stands in `lmseq/mixers/compiled_attention.py`.
"""

import ctypes
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array

from lmseq.compiled import Library, native_folder, num_cores, open_library
from lmseq.layers import Precision
from lmseq.recurrence.cells import CELLS
from lmseq.recurrence.cells.cell import Cell, Deltas, GateSteps, LayerState, LayerStates, Recurrent, Steps

LIBRARY = Library("recurrence", Path(__file__).with_name("cpp"), jax.ffi.include_dir(), (jaxlib.__version__,))


class _Loaded:
    """JAX knows a compiled function by name for the whole process: so is this known."""

    library: ctypes.CDLL | None = None


def load(path: Path) -> None:
    """Make a compiled library known to JAX; a second time does nothing. Raises OSError for a damaged one."""
    if _Loaded.library is not None:
        return
    cells = [cell.name for cell in CELLS if cell.native is not None]
    names = tuple(f"lmseq_{kind}_{way}" for kind in (*cells, "attention") for way in ("forward", "backward"))
    library = open_library(path, names)
    for name in names:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    library.lmseq_has_bfloat16.restype = ctypes.c_bool
    _Loaded.library = library


def find() -> None:
    """Load what `make native` left in the user's cache folder, if it did."""
    with suppress(OSError):  # there is none, or it is damaged: XLA's loops do the same
        load(LIBRARY.path(native_folder()))


def is_loaded(precision: Precision = "float32") -> bool:
    """Whether a library is known to JAX, and has products of that precision on this processor."""
    library = _Loaded.library
    return library is not None and (precision != "bfloat16" or library.lmseq_has_bfloat16())


def shared_axes() -> tuple[str, ...]:
    """The axes of the mesh that what is traced is one device's part of; none of a program over all."""
    return jax.sharding.get_abstract_mesh().manual_axes


def suits(precision: Precision, *arrays: Array) -> bool:
    """Whether compiled loops are loaded and can take these arrays: float32 ones of one device's program.

    XLA cannot share the batch of such a call out, nor does `jax.shard_map` know what varies in it
    (check_vma).
    """
    alone = jax.device_count() == 1 or bool(shared_axes())
    return is_loaded(precision) and alone and all(map(_fits, arrays))


def _fits(array: Array) -> bool:
    return array.dtype == jnp.float32 and not jax.typeof(array).manual_axis_type.varying


@cache
def num_threads() -> int:
    """The cores that this process may use, shared out over JAX's devices."""
    return max(num_cores() // jax.local_device_count(), 1)


def _call(name: str, precision: Precision, shapes: list[tuple[int, ...]], *arrays: Array) -> list[Array]:
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(f"lmseq_{name}", results, vmap_method="sequential")
    return call(*arrays, bfloat16=precision == "bfloat16", threads=num_threads())


def forward(
    cell: Cell, precision: Precision, weights: Recurrent, state: LayerState, xs: GateSteps, keep: bool
) -> tuple[LayerState, Steps, tuple[LayerStates, Any] | None]:
    """Last state, outputs (T, B, H), and, if they are to be kept, all states and gates for `deltas`."""
    return cell.native.forward(partial(_call, f"{cell.name}_forward", precision), weights, state, xs, keep)


def deltas(
    cell: Cell,
    precision: Precision,
    weights: Recurrent,
    initial: LayerState,
    states: LayerStates,
    kept: Any,
    d_last: LayerState,
    d_outputs: Steps,
) -> Deltas:
    """The gradients with respect to h U (for the GRU, h U + b), to the inputs, and to the initial state."""
    call = partial(_call, f"{cell.name}_backward", precision)
    return cell.native.backward(call, weights.kernel.T, initial, states, kept, d_last, d_outputs)

"""The library of `cpp/`: compiled once, then called from XLA's programs on a CPU.

Optional: everything runs without it. `LIBRARY.compile` needs a C++ compiler; `load` makes what it left
known to JAX, for the rest of the process.
"""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array

from lmseq.compiled import Library, native_folder, num_cores, open_library

LIBRARY = Library("recurrence", Path(__file__).with_name("cpp"), jax.ffi.include_dir(), (jaxlib.__version__,))
LOOPS = tuple(
    f"{kind}_{way}" for kind in ("rnn", "gru", "lstm", "attention") for way in ("forward", "backward")
)
FUNCTIONS = (*LOOPS, "product_over_rows", "sum_by_id", "draw_round", "draw_likeliest")


class _Loaded:
    """JAX knows a compiled function by name for the whole process: so is this known."""

    library: ctypes.CDLL | None = None


def load(path: Path) -> None:
    """Make a compiled library known to JAX; a second time does nothing. Raises OSError for a damaged one."""
    if _Loaded.library is not None:
        return
    library = open_library(path, tuple(map("lmseq_{}".format, FUNCTIONS)))
    for name in FUNCTIONS:
        function = jax.ffi.pycapsule(getattr(library, f"lmseq_{name}"))
        jax.ffi.register_ffi_target(f"lmseq_{name}", function, platform="cpu")
    library.lmseq_has_bfloat16.restype = ctypes.c_bool
    _Loaded.library = library


def find() -> None:
    """Load what `make native` left in the user's cache folder, if it did."""
    with suppress(OSError):  # there is none, or it is damaged: XLA's loops do the same
        load(LIBRARY.path(native_folder()))


def is_loaded(precision: str = "float32") -> bool:
    """Whether a library is known to JAX, and has products of that precision on this processor."""
    library = _Loaded.library
    return library is not None and (precision != "bfloat16" or library.lmseq_has_bfloat16())


def shared_axes() -> tuple[str, ...]:
    """The axes of the mesh that what is traced is one device's part of; none of a program over all."""
    return jax.sharding.get_abstract_mesh().manual_axes


def suits(precision: str, *arrays: Array, types: tuple[type, ...] = (jnp.float32,)) -> bool:
    """Whether the library is loaded and can take these arrays: of some types, of one device's program.

    XLA cannot share the batch of such a call out, nor does `jax.shard_map` know what varies in it
    (check_vma).
    """
    alone = jax.device_count() == 1 or bool(shared_axes())
    return is_loaded(precision) and alone and all(_fits(array, types) for array in arrays)


def _fits(array: Array, types: tuple[type, ...]) -> bool:
    return array.dtype in types and not jax.typeof(array).manual_axis_type.varying


def identity() -> tuple[str, int]:
    """What a program with the library's functions depends on: sources and processor, as a name; threads."""
    return LIBRARY.path(Path()).name, num_threads()


@cache
def num_threads() -> int:
    """The cores that this process may use, shared out over JAX's devices."""
    return max(num_cores() // jax.local_device_count(), 1)


Result = tuple[int, ...] | jax.ShapeDtypeStruct  # a shape is that of an array of float32


def call(name: str, results: Sequence[Result], *arrays: Array, **attributes: object) -> list[Array]:
    """Results of these shapes of one of FUNCTIONS, which is compiled for a CPU alone."""
    results = [
        jax.ShapeDtypeStruct(result, jnp.float32) if isinstance(result, tuple) else result
        for result in results
    ]
    function = jax.ffi.ffi_call(f"lmseq_{name}", results, vmap_method="sequential")
    return function(*arrays, threads=num_threads(), **attributes)

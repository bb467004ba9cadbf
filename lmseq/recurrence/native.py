"""The loops of `cpp/`: compiled once for a processor, then called from XLA's programs on a CPU.

Optional: everything runs without them. `compile_library` needs a C++ compiler; `load` makes what it left
known to JAX, for the rest of the process. The functions below equal the scans of
`lmseq/recurrence/derivative.py`, whose formulas they follow, in float32. They are for cells with a `native`.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array

from lmseq.files import replacing
from lmseq.layers import Precision
from lmseq.recurrence.cells import CELLS
from lmseq.recurrence.cells.cell import Cell, Deltas, GateSteps, LayerState, LayerStates, Recurrent, Steps

SOURCES = Path(__file__).with_name("cpp")
OPTIONS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w")
DIGEST_BYTES = hashlib.sha256().digest_size
COMPILERS = ("c++", "g++", "clang++")


def library_path(folder: Path) -> Path:
    """Where under a folder the library for these sources, this jaxlib and this processor stands, or would."""
    processor = [platform.machine()]
    information = Path("/proc/cpuinfo")
    if information.exists():
        processor += [
            line for line in information.read_text().splitlines() if line.startswith(("flags", "Features"))
        ][:1]
    sources = [path.read_text() for path in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cc")))]
    made_of = [*sources, jaxlib.__version__, *OPTIONS, *processor]
    return folder / f"recurrence-{hashlib.sha256(chr(0).join(made_of).encode()).hexdigest()[:16]}.so"


def compile_library(folder: Path, compiler: str | None = None) -> Path:
    """Compile the sources into the folder, for this processor, and return the library's path.

    Takes about ten seconds. Raises ValueError without a compiler of C++20, and with its words if it fails.
    """
    compiler = compiler or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise ValueError(f"expected a C++ compiler ({', '.join(COMPILERS)}), found none: install one")
    path = library_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / path.name
        headers = ("-isystem", jax.ffi.include_dir())
        command = [compiler, *OPTIONS, *headers, str(SOURCES / "cells.cc"), "-o", str(made)]
        try:
            found = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise ValueError(f"expected a C++ compiler, cannot run {compiler}: {error}") from error
        if found.returncode or not made.exists():
            words = " ".join(found.stderr.split())[:500] or "it says nothing, and left no library"
            raise ValueError(f"{compiler} could not compile {SOURCES.name}/cells.cc: {words}")
        library = made.read_bytes()
    with replacing(path, "wb") as file:
        file.write(library + hashlib.sha256(library).digest())
    return path


def _check_whole(path: Path) -> None:
    """Raise OSError unless the library ends with its digest: reading one that is cut ends the process."""
    found = path.read_bytes()
    if hashlib.sha256(found[:-DIGEST_BYTES]).digest() != found[-DIGEST_BYTES:]:
        raise OSError(f"{path} is damaged: compile it again")


class _Loaded:
    """JAX knows a compiled function by name for the whole process: so is this known."""

    library: ctypes.CDLL | None = None


def load(path: Path) -> None:
    """Make a compiled library known to JAX; a second time does nothing. Raises OSError for a damaged one."""
    if _Loaded.library is not None:
        return
    _check_whole(path)
    library = ctypes.CDLL(str(path))
    for cell in (cell for cell in CELLS if cell.native is not None):
        for name in (f"lmseq_{cell.name}_forward", f"lmseq_{cell.name}_backward"):
            try:
                target = jax.ffi.pycapsule(getattr(library, name))
            except AttributeError as error:
                raise OSError(f"{path} has no function {name}") from error
            jax.ffi.register_ffi_target(name, target, platform="cpu")
    library.lmseq_has_bfloat16.restype = ctypes.c_bool
    _Loaded.library = library


def is_loaded(precision: Precision = "float32") -> bool:
    """Whether a library is known to JAX, and has products of that precision on this processor."""
    library = _Loaded.library
    return library is not None and (precision != "bfloat16" or library.lmseq_has_bfloat16())


@cache
def _num_threads() -> int:
    """The cores that this process may use, shared out over JAX's devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jax.local_device_count(), 1)


def _call(name: str, precision: Precision, shapes: list[tuple[int, ...]], *arrays: Array) -> list[Array]:
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(f"lmseq_{name}", results, vmap_method="sequential")
    return call(*arrays, bfloat16=precision == "bfloat16", threads=_num_threads())


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

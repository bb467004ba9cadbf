"""The loops of `cpp/`: compiled once for a processor, then called from XLA's programs on a CPU.

Optional: everything runs without them. `compile_library` needs a C++ compiler; `load` makes what it left
known to JAX, for the rest of the process. The functions below equal the scans of
`lmseq/recurrence/derivative.py`, whose formulas they follow, in float32.
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

import jax
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array, Float

from lmseq.files import replacing
from lmseq.layers import Precision
from lmseq.recurrence.cells import (
    NUM_GATES,
    CellKind,
    GruGates,
    LayerState,
    LayerStates,
    LstmState,
    Recurrent,
)

SOURCES = Path(__file__).with_name("cpp")
OPTIONS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w")
DIGEST_BYTES = hashlib.sha256().digest_size
COMPILERS = ("c++", "g++", "clang++")
KINDS: tuple[CellKind, ...] = ("rnn", "gru", "lstm")

Steps = Float[Array, "time batch hidden"]
Kept = tuple[LayerStates, GruGates | Float[Array, "time batch gates"] | tuple[()]]


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
    for kind in KINDS:
        for name in (f"lmseq_{kind}_forward", f"lmseq_{kind}_backward"):
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


def _call(name: str, shapes: list[tuple[int, ...]], precision: Precision, *arrays: Array) -> list[Array]:
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(f"lmseq_{name}", results, vmap_method="sequential")
    return call(*arrays, bfloat16=precision == "bfloat16", threads=_num_threads())


def forward(
    kind: CellKind,
    precision: Precision,
    weights: Recurrent,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
    keep: bool,
) -> tuple[LayerState, Steps, Kept | None]:
    """Last state, outputs (T, B, H), and, if they are to be kept, all states and gates for `deltas`."""
    time, batch, hidden = *xs.shape[:2], xs.shape[2] // NUM_GATES[kind]
    steps, call = (time, batch, hidden), partial(_call, f"{kind}_forward")
    match kind:
        case "rnn":
            (outputs,) = call([steps], precision, xs, weights.kernel, state)
            return outputs[-1], outputs, (outputs, ())
        case "gru":
            some, one = ((time, batch, 2 * hidden), steps) if keep else ((0, 0, 0), (0, 0, 0))
            bias = jnp.zeros(hidden) if weights.bias is None else weights.bias
            *gates, outputs = call([some, one, one, steps], precision, xs, weights.kernel, bias, state)
            return outputs[-1], outputs, (outputs, GruGates(*gates)) if keep else None
        case _:
            all_gates, all_cells = (xs.shape, steps) if keep else ((0, 0, 0), (1, batch, hidden))
            gates, memory, outputs = call(
                [all_gates, all_cells, steps], precision, xs, weights.kernel, state.hidden, state.cell
            )
            last = LstmState(outputs[-1], memory[-1])
            return last, outputs, (LstmState(outputs, memory), gates) if keep else None


def deltas(
    kind: CellKind,
    precision: Precision,
    weights: Recurrent,
    initial: LayerState,
    kept: Kept,
    d_last: LayerState,
    d_outputs: Steps,
) -> tuple[Float[Array, "time batch gates"], Float[Array, "time batch gates"], LayerState]:
    """The gradients with respect to h U (for the GRU, h U + b), to the inputs, and to the initial state."""
    (states, gates), transposed = kept, weights.kernel.T
    call = partial(_call, f"{kind}_backward")
    packed = (*d_outputs.shape[:2], weights.kernel.shape[1])
    match kind:
        case "rnn":
            found, d_state = call([packed, d_last.shape], precision, transposed, states, d_outputs, d_last)
            return found, found, d_state
        case "gru":
            before = transposed, *gates, states, initial
            found, d_xs, d_state = call([packed, packed, d_last.shape], precision, *before, d_outputs, d_last)
            return found, d_xs, d_state
        case _:
            before = transposed, gates, states.cell, initial.cell
            shapes = [packed, d_last.hidden.shape, d_last.cell.shape]
            found, *d_state = call(shapes, precision, *before, d_outputs, *d_last)
            return found, found, LstmState(*d_state)

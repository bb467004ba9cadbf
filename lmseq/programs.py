"""Compiled programs that are kept on disk, so that a later process neither traces nor compiles them.

JAX keeps what XLA compiled, but traces and lowers a function to look for it, which takes a short run longer
than all else. Here a program is found by what it is made from: the function, its static arguments, the shapes
of the others, the source of this package, and all that the process has set. It is kept only where these say
it in full: where every function and class among them is of this package or of one that has a version.
"""

import hashlib
import io
import pickle
import platform
import re
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache, update_wrapper
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from lmseq.files import replacing, sealed, unsealed
from lmseq.recurrence import library

PACKAGES = "jax", "jaxlib", "flax", "optax", "numpy", "jaxtyping", "ml_dtypes"
VERSIONED = {"lmseq", "builtins", "functools", *PACKAGES}
ANOTHER_NAME = "xla_llvm_disable_expensive_passes"  # an option that is false anyhow: see `_write_apart`
CALL = re.compile(r'custom_call @"?([\w.]+)|call_target_name = "([\w.]+)"')
LAPACK = "lapack_"
KNOWN_CALLS = (LAPACK, "lmseq_")  # functions outside a program that are there when it is read
SOURCE = Path(__file__).parent
MOST_FOUND = 64  # programs that one `Program` has at hand
MOST_DAYS = 30  # that a file stays without being read


def _source() -> bytes:
    """A digest of this package, and of what it stands on."""
    found = hashlib.sha256(repr([(name, metadata.version(name)) for name in PACKAGES]).encode())
    found.update(platform.python_version().encode())
    for path in sorted(SOURCE.rglob("*.py")):
        found.update(path.read_bytes())
    return found.digest()


class _Kept:
    """Where programs are kept, for the whole process; None where they are not.

    source: when it was said where. A process whose source has changed since keeps nothing.
    """

    folder: Path | None = None
    flags: str = ""
    source: bytes = b""
    lock = threading.Lock()


def keep_in(folder: Path | None, flags: str = "") -> None:
    """Keep the programs of this process in a folder, from now on; None for nowhere.

    flags: what the process's environment says to XLA. Programs that nobody has read for MOST_DAYS go.
    """
    _Kept.folder, _Kept.flags = folder, flags
    if folder is None:
        return
    _Kept.source = _source()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.program"):
            if time.time() - path.stat().st_mtime > MOST_DAYS * 24 * 3600:
                path.unlink()


class Program:
    """`jax.jit` of a function, whose compiled programs are kept where `keep_in` said.

    static_argnums, donate_argnums, out_shardings: those of `jax.jit`; arguments are given by position.
    made_of: what else the function depends on, as a closure does, which is not kept without. In a program of
    several devices, or inside another one, it is `jax.jit`'s.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static_argnums: tuple[int, ...] = (),
        made_of: Hashable = None,
        **options: Any,
    ) -> None:
        update_wrapper(self, function)
        self._jit = jax.jit(function, static_argnums=static_argnums, **options)
        self._static, self._options = static_argnums, options
        self._made_of = function.__module__, function.__qualname__, made_of
        self._found: dict[Hashable, Callable[..., Any]] = {}

    def lower(self, *arguments: Any) -> Any:
        """As of what `jax.jit` returns."""
        return self._jit.lower(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        """As of what `jax.jit` returns."""
        if _Kept.folder is None or jax.device_count() != 1 or jax.default_backend() != "cpu":
            return self._jit(*arguments)
        static = tuple(arguments[number] for number in self._static)
        given = [each for number, each in enumerate(arguments) if number not in self._static]
        leaves, structure = jax.tree.flatten(given)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._jit(*arguments)
        place = static, structure, tuple(map(jax.typeof, leaves)), _settings()
        found = self._found.get(place)
        if found is None:
            if len(self._found) == MOST_FOUND:
                self._found.clear()
            found = self._found[place] = self._find(arguments, *place)
        return found(*given)

    def _find(
        self, arguments: tuple[Any, ...], static: Any, structure: Any, kinds: Any, settings: Any
    ) -> Callable[..., Any]:
        """The compiled program, read or made."""
        path = self._path(static, structure, kinds, settings)
        if path is not None and (kept := _read(path, structure)) is not None:
            return kept
        lowered = self._jit.lower(*arguments)
        if path is not None:
            text = lowered.as_text()
            calls = ["".join(found) for found in CALL.findall(text)]
            if all(name.startswith(KNOWN_CALLS) for name in calls) and len(calls) == text.count(
                "custom_call"
            ):
                return _write_apart(path, lowered, any(name.startswith(LAPACK) for name in calls))
        return lowered.compile()

    def _path(self, static: Any, structure: Any, kinds: Any, settings: Any) -> Path | None:
        """The file of a program; None where what it is made of has no full name."""
        module, function, beside = self._made_of
        is_named = _is_versioned(module) and (beside is not None or "<locals>" not in function)
        if not is_named or ANOTHER_NAME in _Kept.flags:
            return None
        try:
            made_of = _pickled((self._made_of, static, sorted(self._options.items())))
        except Exception:  # what cannot be written, or may change without notice
            return None
        device = jax.devices()[0]
        machine = device.platform, device.device_kind, device.client.platform_version, library.identity()
        parts = [_Kept.source, made_of]
        parts += [repr(each).encode() for each in (structure, kinds, settings, _Kept.flags, machine)]
        name = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        return _Kept.folder / f"{name[:32]}.program"


def program(**options: Any) -> Callable[[Callable[..., Any]], Program]:
    """A decorator: `Program` with these options."""
    return lambda function: Program(function, **options)


def _settings() -> tuple[Any, ...]:
    """What this process says of all programs: settings of JAX, and whether compiled loops are there."""
    values = [(name, str(value)) for name, value in jax.config.values.items() if "cache" not in name]
    return (*values, library.is_loaded())


def _write_apart(path: Path, lowered: Any, has_lapack: bool) -> Any:
    """Compile a program, and keep it here and not where JAX keeps its own.

    XLA can write the code of a program for a CPU once: what JAX has written, or read, lacks functions when it
    is written again. So JAX writes none meanwhile; and finds none, under a name that it never wrote.
    """
    writes = "jax_persistent_cache_min_compile_time_secs"
    with _Kept.lock:
        before = jax.config.values[writes]
        jax.config.update(writes, 1e9)
        try:
            compiled = lowered.compile(compiler_options={ANOTHER_NAME: False})
            _write(path, compiled, has_lapack)
        finally:
            jax.config.update(writes, before)
    return compiled


def _read(path: Path, structure: Any) -> Callable[..., Any] | None:
    """A kept program; None where there is none, or it cannot be used."""
    try:
        executable, out, has_lapack = pickle.loads(unsealed(path.read_bytes()))
        path.touch()
        if has_lapack:
            _find_lapack()
        given = jax.tree.unflatten(structure, range(structure.num_leaves))
        trees = jax.tree.structure((tuple(given), {})), jax.tree.structure(out)
        devices = jax.devices()[:1]  # and not all, where there are more by now
        return serialize_executable.deserialize_and_load(executable, *trees, execution_devices=devices)
    except Exception:  # not there, damaged, or of another version: it is made anew
        return None


@cache
def _find_lapack() -> None:
    """JAX looks for LAPACK's functions when it lowers a program with one: of one that is read, never."""
    jax.jit(jnp.linalg.qr).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))


def _write(path: Path, compiled: Any, has_lapack: bool) -> None:
    """Keep a program, as far as that can be done: what cannot be kept is made anew by who needs it."""
    with suppress(Exception):
        if _source() != _Kept.source:
            return
        executable, _, out = serialize_executable.serialize(compiled)
        payload = pickle.dumps((executable, jax.tree.unflatten(out, range(out.num_leaves)), has_lapack))
        with replacing(path, "wb") as file:
            file.write(sealed(payload))


def _is_versioned(module: str | None) -> bool:
    return (module or "").split(".")[0] in VERSIONED


class _UnversionedError(Exception):
    """Something whose source may change without notice."""


class _Pickler(pickle.Pickler):
    """Of functions and classes, names alone: so those are refused that a name and a version do not give."""

    def reducer_override(self, found: Any) -> Any:
        if isinstance(found, type) or hasattr(found, "__qualname__"):
            if not _is_versioned(found.__module__):
                raise _UnversionedError(found)
            return NotImplemented
        if not is_dataclass(found):
            return NotImplemented
        # What it is made with, and nothing that it notes of itself, as Flax's modules do.
        names = [field.name for field in fields(found) if field.init and field.name != "parent"]
        return _made_with, (type(found), [(name, getattr(found, name)) for name in names])


def _made_with(kind: type, values: list[tuple[str, Any]]) -> None:
    """What `_Pickler` writes for a dataclass; it is never read."""


def _pickled(found: Any) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(found)
        return file.getvalue()

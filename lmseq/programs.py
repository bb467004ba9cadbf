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
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache, update_wrapper
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from lmseq.files import replacing
from lmseq.recurrence import library

VERSIONED = {
    "lmseq",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "jaxtyping",
    "ml_dtypes",
    "builtins",
    "functools",
}
APART = {"xla_llvm_disable_expensive_passes": False}  # the default, but another name among JAX's
CALL = re.compile(r"custom_call @([\w.]+)")
LAPACK = "lapack_"
KNOWN_CALLS = (LAPACK, "lmseq_")  # functions outside a program that are there when it is read
SOURCE = Path(__file__).parent
DIGEST_BYTES = hashlib.sha256().digest_size


class _Kept:
    """Where programs are kept, for the whole process; None where they are not."""

    folder: Path | None = None
    flags: str = ""


def keep_in(folder: Path | None, flags: str = "") -> None:
    """Keep the programs of this process in a folder, from now on; None for nowhere.

    flags: what the process's environment says to XLA.
    """
    _Kept.folder, _Kept.flags = folder, flags


class Program:
    """`jax.jit` of a function, whose compiled programs are kept where `keep_in` said.

    static_argnums, donate_argnums, out_shardings: those of `jax.jit`; arguments are given by position.
    made_of: what else the function depends on, as a closure does. In a program of several devices, or inside
    another one, it is `jax.jit`'s.
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
        if _Kept.folder is None or jax.device_count() != 1:
            return self._jit(*arguments)
        static = tuple(arguments[number] for number in self._static)
        given = [each for number, each in enumerate(arguments) if number not in self._static]
        leaves, structure = jax.tree.flatten(given)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._jit(*arguments)
        place = static, structure, tuple(map(jax.typeof, leaves))
        if place not in self._found:
            self._found[place] = self._find(arguments, *place)
        return self._found[place](*given)

    def _find(
        self, arguments: tuple[Any, ...], static: tuple[Any, ...], structure: Any, kinds: tuple[Any, ...]
    ) -> Callable[..., Any]:
        """The compiled program, read or made."""
        path = self._path(static, structure, kinds)
        if path is not None and (kept := _read(path, structure)) is not None:
            return kept
        lowered = self._jit.lower(*arguments)
        calls = None if path is None else set(CALL.findall(lowered.as_text()))
        if calls is None or not all(name.startswith(KNOWN_CALLS) for name in calls):
            return lowered.compile()
        with _apart_from_jax():
            compiled = lowered.compile(compiler_options=APART)
        _write(path, compiled, any(name.startswith(LAPACK) for name in calls))
        return compiled

    def _path(self, static: tuple[Any, ...], structure: Any, kinds: tuple[Any, ...]) -> Path | None:
        """The file of a program; None where what it is made of has no full name."""
        if not _is_versioned(self._made_of[0]):
            return None
        try:
            made_of = _pickled((self._made_of, static, sorted(self._options.items())))
        except (_UnversionedError, pickle.PicklingError, AttributeError, TypeError):
            return None
        parts = *_surroundings(), made_of, str(structure).encode(), repr(kinds).encode()
        name = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        return _Kept.folder / f"{name[:32]}.program"


def program(**options: Any) -> Callable[[Callable[..., Any]], Program]:
    """A decorator: `Program` with these options."""
    return lambda function: Program(function, **options)


@contextmanager
def _apart_from_jax() -> Iterator[None]:
    """What is compiled is neither looked for among the programs that JAX keeps, nor put there.

    Of a program for a CPU, XLA can write the code once: what JAX has written, or read, lacks functions when
    it is written again.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 1e9)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _read(path: Path, structure: Any) -> Callable[..., Any] | None:
    """A kept program; None where there is none, or it cannot be used."""
    try:
        content = path.read_bytes()
        payload, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        executable, out, has_lapack = pickle.loads(payload)
        if has_lapack:
            _find_lapack()
        given = jax.tree.unflatten(structure, range(structure.num_leaves))
        trees = jax.tree.structure((tuple(given), {})), jax.tree.structure(out)
        devices = jax.devices()[:1]  # and not all, where there are more by now
        return serialize_executable.deserialize_and_load(executable, *trees, execution_devices=devices)
    except Exception:  # of another version, or of another processor: it is made anew
        return None


@cache
def _find_lapack() -> None:
    """JAX looks for LAPACK's functions when it lowers a program with one: of one that is read, never."""
    jax.jit(jnp.linalg.qr).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))


def _write(path: Path, compiled: Any, has_lapack: bool) -> None:
    """Keep a program; without a place to write to, or of a device that cannot give it away, nothing."""
    with suppress(OSError, ValueError, TypeError, NotImplementedError, jax.errors.JaxRuntimeError):
        executable, _, out = serialize_executable.serialize(compiled)
        payload = pickle.dumps((executable, jax.tree.unflatten(out, range(out.num_leaves)), has_lapack))
        with replacing(path, "wb") as file:
            file.write(payload + hashlib.sha256(payload).digest())


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


@cache
def _source() -> bytes:
    """Of this package and of what it stands on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    found = hashlib.sha256(repr([(name, metadata.version(name)) for name in packages]).encode())
    found.update(platform.python_version().encode())
    for path in sorted(SOURCE.rglob("*.py")):
        found.update(path.read_bytes())
    return found.digest()


def _surroundings() -> tuple[bytes, ...]:
    """What else a program depends on: settings of JAX and of XLA, the device, compiled loops."""
    device = jax.devices()[0]
    settings = {
        name: value for name, value in jax.config.values.items() if "cache" not in name and "dump" not in name
    }
    machine = device.platform, device.device_kind, device.client.platform_version, library.identity()
    return _source(), repr(sorted(settings.items(), key=str)).encode(), repr((_Kept.flags, machine)).encode()

"""The start of a process: its clock, its signals, its folders, and the settings of JAX."""

import ctypes
import ctypes.util
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from experiments import STARTED
from experiments.frame.console import say
from lmseq.files import cache_folder, from_home


def seconds() -> float:
    """Seconds since this process began to import."""
    return time.monotonic() - STARTED


def peak_memory() -> int:
    """Bytes of memory that this process had at most."""
    # Linux's getrusage counts what the process that started this one had, too.
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# With the scheduler that this turns off, XLA of jax 0.10 waits for ever in training steps of two wide
# recurrent layers on a CPU; steps are as fast without it.
XLA_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
# What a program of JAX means, whatever the environment says: runs are the same, bit for bit, for everyone.
MEANING = {
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_device": None,
    "jax_transfer_guard": None,
    "jax_no_tracing": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
}


def keep_pages() -> None:
    """Keep memory that was freed for what is asked for next.

    glibc gives blocks of tens of megabytes back to the system after every step and asks for them again;
    keeping them saves a quarter of a training step on a CPU.
    """
    libc_name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(libc_name), "mallopt", None) if libc_name else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def prepare_jax(
    host_devices: int = 1, keep_programs: bool = False, connect: Callable[[], None] | None = None
) -> None:
    """What must stand before JAX's first use: its meaning, virtual CPU devices, memory and programs kept.

    With `keep_programs`, compiled programs are kept where JAX_COMPILATION_CACHE_DIR says, or else in the
    user's cache folder, where compiled loops of recurrent layers, and routines on counts, are looked for too.
    `connect` joins other processes of the run. Raises ValueError where JAX finds no device of the kind asked
    for.
    """
    # The user's own come last, and win.
    os.environ["XLA_FLAGS"] = f"{XLA_FLAG} {os.environ.get('XLA_FLAGS', '')}".strip()
    keep_pages()
    import jax

    for name, value in MEANING.items():
        if (found := jax.config.values.get(name, value)) != value:
            say(f"{name.upper()} is {found}: it is not heeded, {value} is in its place")
            jax.config.update(name, value)
    jax.config.update("jax_num_cpu_devices", host_devices)
    if not keep_programs:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.jax_compilation_cache_dir is None:
        folder = cache_folder() / "programs"
        with suppress(OSError):  # without a place to write to, programs are compiled anew
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            # By default only what took a second is kept; a start compiles many smaller programs.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if connect is not None:
        connect()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin was never installed
        asked = os.environ.get("JAX_PLATFORMS", "")
        why = f" ({str(error)[:200]})" if str(error) else ""
        raise ValueError(
            f"JAX finds no device for JAX_PLATFORMS={asked}{why}: leave it out, or say cpu"
        ) from None
    from lmseq import programs
    from lmseq.ngram import native as counts
    from lmseq.recurrence import library

    counts.find()
    library.find()
    if keep_programs and jax.config.jax_enable_compilation_cache:
        kept = jax.config.jax_compilation_cache_dir
        flags = " ".join(os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"))
        programs.keep_in(Path(kept) if kept and "://" not in kept else None, flags)


def data_folders() -> tuple[Path | None, Path]:
    """Where corpora are looked for: LMSEQ_DATA_DIR, then the user's cache folder."""
    named = os.environ.get("LMSEQ_DATA_DIR")
    return (Path(from_home(named)) if named else None), cache_folder()

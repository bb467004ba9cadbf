"""The frame that every script stands in: flags from dataclasses, one-line errors, working folders."""

import time

START = time.monotonic()  # before JAX is imported, so that seconds count from the process's start

import os
import signal
import sys


def _interrupted(number: int, frame: object) -> None:
    """Until training looks at signals itself, one of them ends the process with a word."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


_main = getattr(sys.modules["__main__"], "__spec__", None)
if _main is not None and _main.name.startswith(("experiments.", "benchmarks.")):  # and not a test of them
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _interrupted)

import ctypes
import ctypes.util
import dataclasses
import errno
import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, get_args

from absl import flags
from tqdm import tqdm

from lmseq.config import knobs
from lmseq.files import read_json, read_text, write_text

FLAGS = flags.FLAGS
USER_ERRORS = (ValueError, ArithmeticError, OSError, MemoryError)
HINTS = {
    errno.ENOSPC: "make room, then give the same command again",
    errno.EACCES: "allow reading and writing there, or name another folder",
    errno.EROFS: "name a folder that can be written to",
    errno.EISDIR: "a folder stands where a file should: move it away",
}


def seconds() -> float:
    """Seconds since this process began to import."""
    return time.monotonic() - START


def say(line: str) -> None:
    """A line of progress, to stderr, above the progress bar if there is one; stdout is for results."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def listed(symbols: Sequence[str]) -> str:
    """The first ten of some characters or words, as Python would write them."""
    return ", ".join(map(repr, symbols[:10])) + (
        f" and {len(symbols) - 10} more" if len(symbols) > 10 else ""
    )


def numbers(text: str, name: str) -> list[int]:
    """Positive integers separated by commas; ValueError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"expected --{name}=1,2,... as positive numbers, got {text!r}")
    return [int(part) for part in parts]


def define_all_flags(kind: type) -> list[str]:
    """One flag for each field of each section of a config class; returns their names."""
    return [name for section in knobs.sections(kind).values() for name in define_flags(section)]


def define_flags(section: Any) -> list[str]:
    """One flag for each field of a section, with its value there as default, its choices and meaning."""
    for knob in dataclasses.fields(section):
        meaning, choices, default = knob.metadata["help"], get_args(knob.type), getattr(section, knob.name)
        if choices:
            flags.DEFINE_enum(knob.name, default, choices, meaning)
        elif knob.type is bool:
            flags.DEFINE_bool(knob.name, default, meaning)
        else:
            define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
            define[knob.type](knob.name, default, meaning)
    return [knob.name for knob in dataclasses.fields(section)]


def define_presets(presets: Sequence[Callable[[], dict[str, Any]]]) -> None:
    """The flag --preset, one of some functions by name; their docstrings are its help."""
    lines = [f"{preset.__name__}: {preset.__doc__.splitlines()[0]}" for preset in presets]
    meaning = "sets defaults; explicit flags win." + "".join(f"\n          {line}" for line in lines)
    flags.DEFINE_enum("preset", "none", [preset.__name__ for preset in presets], meaning)


def preset_of(presets: Sequence[Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """The settings of the preset that was asked for."""
    return next(preset() for preset in presets if preset.__name__ == FLAGS.preset)


def values(names: list[str], preset: dict[str, Any] | None = None) -> dict[str, Any]:
    """Flag values by name; a preset's values stand where the command line says nothing."""
    chosen = {name: FLAGS[name].value for name in names}
    return chosen | {name: value for name, value in (preset or {}).items() if not FLAGS[name].present}


def _help(doc: str, names: list[str]) -> str:
    lines = [doc.strip(), ""]
    for name in names:
        flag = FLAGS[name]
        lines.append(f"  --{name}={flag.default}\n        {flag.help}")  # of a choice, with what there is
    return "\n".join(lines)


def _unraisable(args: Any) -> None:
    """Leave out what the checkpoint writer's callbacks would print after it has failed and said so."""
    if str(args.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(args)


def run(main: Callable[[], int | None], doc: str, names: list[str]) -> None:
    """Parse the command line, run `main`, and turn a user's mistake into one line and exit status 2."""
    if {"--help", "-h", "--helpfull"} & set(sys.argv[1:]):
        print(_help(doc, [*names, "compilation_cache"]))
        sys.exit(0)
    sys.unraisablehook = _unraisable
    try:
        rest = FLAGS(sys.argv)[1:]
        if rest:
            raise ValueError(f"expected flags only, got {rest[0]!r}: write --name=value, see --help")
        status = main()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os._exit(128 + signal.SIGPIPE)
    except (flags.Error, *USER_ERRORS) as error:
        hint = HINTS.get(getattr(error, "errno", None))
        _fail(str(error) + (f": {hint}" if hint else ""))
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail("more memory was asked for than there is: make the model, the batch or the samples smaller")
    sys.exit(status or 0)


def _fail(reason: str) -> NoReturn:
    say("error: " + " ".join(reason.split())[:1000])
    sys.stdout.flush()
    os._exit(2)  # not sys.exit: what libraries registered for the end would fail on a full disk again


# With the scheduler that this turns off, XLA of jax 0.10 waits for ever in training steps of two wide
# recurrent layers on a CPU; steps are as fast without it.
XLA_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


flags.DEFINE_bool("compilation_cache", True, "keep compiled programs in the user's cache folder")


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_jax(host_devices: int = 1) -> None:
    """Settings that must stand before JAX's first use: virtual CPU devices, memory and programs kept.

    glibc gives blocks of tens of megabytes back to the system after every step and asks for them again;
    keeping them saves a quarter of a training step on a CPU. Compiled programs are kept where
    JAX_COMPILATION_CACHE_DIR says, or else in the user's cache folder, where compiled loops of recurrent
    layers are looked for too.
    """
    # The user's own come last, and win.
    os.environ["XLA_FLAGS"] = f"{XLA_FLAG} {os.environ.get('XLA_FLAGS', '')}".strip()
    libc_name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(libc_name), "mallopt", None) if libc_name else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
    import jax

    jax.config.update("jax_num_cpu_devices", host_devices)
    if not FLAGS.is_parsed() or not FLAGS.compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.jax_compilation_cache_dir is None:
        folder = cache_folder() / "programs"
        with suppress(OSError):  # without a place to write to, programs are compiled anew
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            # By default only what took a second is kept; a start compiles many smaller programs.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    from lmseq.recurrence import native

    with suppress(OSError):  # there is none, or it is damaged: XLA's loops do the same
        native.load(native.library_path(native_folder()))


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Create the folder and keep other processes out of it; ValueError when one is in it already."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is at work in {workdir}: wait for it, or stop it") from None
        yield


def check_workdir(workdir: Path, config: Any, facts: dict[str, Any], name: str) -> None:
    """ValueError unless the folder is new, empty, or holds this very run: same config, same data."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a file")
    config_path, facts_path = workdir / "config.json", workdir / name
    if config_path.exists():
        began = knobs.from_json(read_text(config_path), type(config))
        differing = knobs.differences(began, config)
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(differing)}): "
                "choose another --workdir, or give it the flags it began with"
            )
        if facts_path.exists() and read_json(facts_path) != facts:
            raise ValueError(
                f"the data of {next(iter(facts.values()))} is not the one that {workdir} was begun with: "
                "choose another --workdir, or restore it"
            )
        if (workdir / "checkpoints").exists() and not (workdir / "checkpoints").is_dir():
            raise ValueError(f"expected a folder at {workdir / 'checkpoints'}, a file is there: move it away")
    elif workdir.exists() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        # Hidden files are the lock and what a kill at the very start left behind.
        raise ValueError(f"{workdir} is not empty and holds no run: choose another --workdir")


@contextmanager
def opened(workdir: Path, config: Any, facts: dict[str, Any], name: str) -> Iterator[str | None]:
    """The folder of a run, locked, with what the run is made of in it; the summary of a finished one.

    Raises ValueError as `check_workdir` does, and when another process is at work there.
    """
    check_workdir(workdir, config, facts, name)  # before anything is created
    with locked(workdir):
        check_workdir(workdir, config, facts, name)  # another process may have come and gone
        summary = finished_summary(workdir)
        if summary is None:
            write_text(workdir / "config.json", knobs.to_json(config))
            write_text(workdir / name, json.dumps(facts, indent=1) + "\n")
        yield summary


def data_folders() -> tuple[Path | None, Path]:
    """Where corpora are looked for: LMSEQ_DATA_DIR, then the user's cache folder."""
    named = os.environ.get("LMSEQ_DATA_DIR")
    return (Path(named) if named else None), cache_folder()


def cache_folder() -> Path:
    """The user's own folder for what can be had again."""
    import pooch

    return Path(pooch.os_cache("lmseq"))


def native_folder() -> Path:
    """Where `make native` leaves what it compiles."""
    return cache_folder() / "native"


def finished_summary(workdir: Path) -> str | None:
    """The summary line of a run that is done; None of one that is not, or whose summary is damaged."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return None


def finish(workdir: Path, summary: dict[str, Any]) -> None:
    """Write summary.json and print it, one line, as the last on stdout."""
    line = json.dumps(summary)
    write_text(workdir / "summary.json", line + "\n")
    print(line, flush=True)

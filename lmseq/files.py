"""Files: written whole or not at all, and read with one line for what is damaged."""

import glob
import hashlib
import json
import math
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import filelock


@contextmanager
def replacing(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """An open file that takes the place of `path` when the block ends: a reader sees the old or the new one.

    mode: `w` for UTF-8 text, `wb` for bytes. What is written goes to a temporary file in the same folder, is
    brought to disk, and is then renamed. Where the block raises, the old file stays and the new one is gone.
    """
    # The process's number, so that two processes that write the same file do not write into one another.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    as_text = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    try:
        with temporary.open(mode, **as_text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


DIGEST_BYTES = hashlib.sha256().digest_size


def sealed(content: bytes) -> bytes:
    """Content with its digest behind it, for a file that must not be used when it is cut or changed."""
    return content + hashlib.sha256(content).digest()


def unsealed(whole: bytes) -> bytes:
    """The content of what `sealed` gave; ValueError where it does not have its digest."""
    content = whole[:-DIGEST_BYTES]
    if sealed(content) != whole:
        raise ValueError("expected content and its digest behind it: the file is cut or was changed")
    return content


def check_new(path: Path) -> None:
    """ValueError where something stands at a path already."""
    if path.exists() or path.is_symlink():
        raise ValueError(
            f"expected a folder that is not there yet, {path} exists: name another, or remove it"
        )


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which stands at `path` when the block ends: it is there whole or not at all.

    What is written goes to a hidden folder beside it, is brought to disk, and is then renamed. Where the
    block raises, nothing stays; what a killed process left of the same folder is removed. Raises ValueError
    where something stands at `path` already, or begins to before the block ends.
    """
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not _is_alive(int(number) if (number := left.name.split(".")[-2]).isdecimal() else 0):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        check_new(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Whether there is a process of that number, which may be another user's."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process > 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a folder and keep other processes out of it; ValueError when one is at work there already.

    What a process that was killed while it wrote left behind is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(f"another process is at work in {folder}: wait for it, or stop it") from None
    try:
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """The user's own folder for what can be had again: downloads, compiled programs and loops.

    Of a user without a home it lies among temporary files, where nobody else can write into it.
    """
    import pooch

    try:
        folder = Path(pooch.os_cache("lmseq"))
    except RuntimeError:  # of later versions, where there is no home
        folder = Path("~")
    return _own_temporary_folder() if folder.parts[0] == "~" else folder


@cache
def _own_temporary_folder() -> Path:
    """A folder that stays, or one for this process where another user has taken its name.

    What lies there is run: compiled programs and loops.
    """
    folder = Path(tempfile.gettempdir()) / f"lmseq-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_own else Path(tempfile.mkdtemp(prefix="lmseq-"))


def from_home(path: str) -> str:
    """A path with the home of a user in the place of a beginning `~`; ValueError where there is none."""
    found = os.path.expanduser(path)
    if path.startswith("~") and found.startswith("~"):
        first = Path(path).parts[0]
        raise ValueError(f"there is no home to put in the place of {first}: write it out, or begin with ./")
    return found


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON, in ASCII, as the standard has it (RFC 8259): what is infinite or no number becomes null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # something is infinite or no number
        return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """The same with None for infinities and NaNs, which JSON cannot say; a tuple becomes a list."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case _:
            return value


# Files of a run


def split_run(name: str | Path) -> tuple[Path, str]:
    """Folder and checkpoint of `DIR:latest`, `DIR:best` or `DIR:STEP`; of any other name, itself and nothing.

    Behind the checkpoint `.raw` or `.average` may stand, as `training.checkpoint.load_params` takes them.
    What lies under the whole name is meant by it.
    """
    folder, _, which = str(name).rpartition(":")
    step, _, kind = which.partition(".")
    is_named = folder and (step in ("latest", "best") or step.isdecimal()) and kind in ("", "raw", "average")
    return (Path(folder), which) if is_named and not os.path.exists(name) else (Path(name), "")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all (see `replacing`)."""
    with replacing(path) as file:
        file.write(text)


def read_text(path: Path) -> str:
    """A file of a run; ValueError, naming it, for one that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or choose another folder") from None


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """A ValueError of what is read inside says in which folder it lies."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run; ValueError, naming it, for a damaged one."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or choose another folder") from None


def release(arrays: Iterable[Any]) -> None:
    """Tell the system that the files mapped by some arrays, or by what they are views of, may leave memory.

    What is asked for again is read again. A map whose changes are not the file's (mode `c`) stays.
    """
    for array in arrays:
        while array is not None and getattr(array, "_mmap", None) is None:
            array = getattr(array, "base", None)
        if array is not None and array.mode in ("r", "r+"):
            array._mmap.madvise(mmap.MADV_DONTNEED)

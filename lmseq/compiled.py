"""C++ of this package: compiled once for a processor into a folder, where later processes find it.

Optional: everything runs without. A library ends with its digest, as the system would crash while it reads
one that is cut.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lmseq.files import cache_folder, replacing, sealed, unsealed

OPTIONS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w")
COMPILERS = ("c++", "g++", "clang++")


def native_folder() -> Path:
    """Where `make native` leaves what it compiles: in the user's cache folder."""
    return cache_folder() / "native"


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_compiler() -> str:
    """The first of `COMPILERS` on the PATH; ValueError where there is none."""
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise ValueError(f"expected a C++ compiler ({', '.join(COMPILERS)}), found none: install one")
    return found


@dataclass(frozen=True)
class Library:
    """A library of all the source files and headers in a folder.

    headers: a folder of other people's headers. versions: of what else the compiled code belongs to. options:
    of the compiler.
    """

    name: str
    folder: Path
    headers: str = ""
    versions: tuple[str, ...] = ()
    options: tuple[str, ...] = OPTIONS

    @property
    def sources(self) -> list[Path]:
        """The files that are compiled."""
        return sorted(self.folder.glob("*.cc"))

    def path(self, folder: Path) -> Path:
        """Where under a folder the library of these sources and this processor stands, or would."""
        processor = [platform.machine()]
        information = Path("/proc/cpuinfo")
        if information.exists():
            processor += [
                line
                for line in information.read_text().splitlines()
                if line.startswith(("flags", "Features"))
            ][:1]
        files = sorted((*self.folder.glob("*.h"), *self.sources))
        made_of = [*(path.read_text() for path in files), *self.versions, *self.options, *processor]
        digest = hashlib.sha256(chr(0).join(made_of).encode()).hexdigest()
        return folder / f"{self.name}-{digest[:16]}.so"

    def compile(self, folder: Path, compiler: str | None = None) -> Path:
        """Compile it into the folder, for this processor, and return its path. Takes some seconds.

        Raises ValueError without a compiler of C++20, and with its words if it fails.
        """
        compiler, path = compiler or find_compiler(), self.path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / path.name
            headers = ("-isystem", self.headers) if self.headers else ()
            objects = [str(Path(scratch) / f"{source.stem}.o") for source in self.sources]
            commands = [
                [compiler, *self.options, *headers, "-c", str(source), "-o", to]
                for source, to in zip(self.sources, objects, strict=True)
            ]
            with ThreadPoolExecutor(num_cores()) as pool:
                try:
                    list(pool.map(self._run, commands))
                except ValueError:
                    pool.shutdown(cancel_futures=True)
                    raise
            self._run([compiler, *self.options, *objects, "-o", str(made)])
            if not made.exists() or not made.stat().st_size:
                raise ValueError(f"{compiler} could not compile {self.name}: it left no library")
            content = made.read_bytes()
        with replacing(path, "wb") as file:
            file.write(sealed(content))
        return path

    def _run(self, command: list[str]) -> None:
        """One command of the compiler; ValueError with its words where it fails."""
        try:
            found = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise ValueError(f"expected a C++ compiler, cannot run {command[0]}: {error}") from error
        if found.returncode:
            words = " ".join(found.stderr.split())[:500] or "it says nothing"
            raise ValueError(f"{command[0]} could not compile {self.name}: {words}")


def open_library(path: Path, functions: tuple[str, ...]) -> ctypes.CDLL:
    """A compiled library; OSError for one that is not there, is damaged, or lacks a function."""
    whole = path.read_bytes()
    try:
        unsealed(whole)
    except ValueError:
        raise OSError(f"{path} is damaged: compile it again") from None
    library = ctypes.CDLL(str(path))
    for name in functions:
        if not hasattr(library, name):
            raise OSError(f"{path} has no function {name}: compile it again")
    return library

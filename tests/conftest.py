"""What holds for every test: eight virtual CPU devices, no silent rank promotion, repeatable examples."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from tests import unoptimised

# Before JAX is imported. Later flags win, so a device count of the caller's own gives way.
XLA_FLAGS = ["--xla_force_host_platform_device_count=8"]
# As experiments.frame.start.prepare_jax does: jax 0.10 waits for ever in some programs otherwise.
XLA_FLAGS.append("--xla_cpu_enable_concurrency_optimized_scheduler=false")
# What the fixture `processes` starts is compiled as a user's programs are.
XLA_FLAGS.append(unoptimised.XLA_FLAGS)
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: one thread an operation
    XLA_FLAGS.append("--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jax
import pytest

from lmseq.compiled import Library
from lmseq.ngram import native
from lmseq.recurrence import library as loops
from tests.browser import Browser, find_browser, opened_browser
from tests.scripts import ForkedScripts, Scripts

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("lmseq", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.load_profile("lmseq")


# The files that take longest, which begin first: so the workers end at about the same time.
LONGEST = "series_scripts experiments ablate processes models native docs resume scoring fit".split()
LONGEST += ["launcher", "ngram_scripts"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of their files, the longest first; a file's tests stay together."""
    first = [f"test_{name}.py" for name in LONGEST]
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))


MOST_MAPS = 30_000  # of memory, of which Linux lets a process have 65,530
MOST_PAGES = 600_000  # of 4 KiB: each worker may have a little more than 2 GiB


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """After a file, compiled programs are let go where they are many: without memory, XLA crashes."""
    yield
    maps, size = Path("/proc/self/maps"), Path("/proc/self/statm")
    if not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > MOST_MAPS or int(size.read_text().split()[1]) > MOST_PAGES:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of corpora and series that LMSEQ_DATA_DIR names; without one, the test is skipped."""
    if not os.environ.get("LMSEQ_DATA_DIR"):
        pytest.skip("LMSEQ_DATA_DIR is not set: no folder of corpora and series to read")
    path = Path(os.environ["LMSEQ_DATA_DIR"])
    if not path.is_dir():
        pytest.skip(f"LMSEQ_DATA_DIR is {path}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """What scripts compile is kept here for the session, and shared by all workers of it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "compiled"
    path.mkdir(exist_ok=True)
    return path


def compiled_once(library: Library, cache: Path) -> Path:
    """The path of a library; without a compiler, the test is skipped."""
    try:
        path = library.path(cache / "native")
        return path if path.exists() else library.compile(path.parent)
    except ValueError as error:
        if "found none" in str(error):
            pytest.skip(str(error))
        raise


def loaded(module: ModuleType, path: Path) -> Iterator[Path]:
    """The path of a library, which its module has loaded until this is asked to go on."""
    module.load(path)
    yield path
    module._Loaded.library = None


@pytest.fixture(scope="session")
def counts_library(cache) -> Path:
    """The library of routines on count models."""
    return compiled_once(native.LIBRARY, cache)


@pytest.fixture(scope="module")
def compiled_loops(cache) -> Iterator[Path]:
    """The library of loops of layers and of attention, known to JAX for the tests of a file alone."""
    yield from loaded(loops, compiled_once(loops.LIBRARY, cache))


@pytest.fixture(scope="module")
def compiled_counts(counts_library) -> Iterator[Path]:
    """The same, loaded for the tests of a file alone."""
    yield from loaded(native, counts_library)


@pytest.fixture(scope="session")
def processes(cache) -> Scripts:
    """Runs scripts as a user does: each in a process that begins with nothing."""
    return Scripts(cache)


@pytest.fixture(scope="session")
def scripts(cache) -> Scripts:
    """Runs scripts in less time, where processes can be forked."""
    return ForkedScripts(cache) if sys.platform == "linux" else Scripts(cache)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium with one tab, where there is one."""
    program = find_browser()
    if program is None:
        pytest.skip("there is no Chromium here: install chromium from the system's packages")
    with ExitStack() as stack:
        try:
            found = stack.enter_context(opened_browser(program, tmp_path_factory.mktemp("profile")))
        except (OSError, AssertionError) as error:
            pytest.skip(f"{program} does not start here: {error!r}")
        yield found

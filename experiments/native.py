"""Compile the loops of tanh RNN, GRU, LSTM and attention, and routines on count models, for this processor.

    python -m experiments.native        (or: make native)

Needs a C++ compiler. What it leaves in the user's cache folder is found by every later run on a CPU, as far
as layers go unless it says --backend=scan. Then the loops are timed beside XLA's, forward and backward, on 64
steps of 32 rows: a layer of 256 units, and attention of 8 heads to 64 tokens. The last line is a JSON object
with the `library` of the loops, the `counts_library`, and `milliseconds`.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import say
from experiments.frame.flags import Given
from experiments.frame.start import seconds
from lmseq.config.knobs import knob
from lmseq.files import to_json


@dataclass(frozen=True)
class NativeOptions:
    """How they are compiled."""

    compiler: str = knob("", "the C++ compiler to use; by default c++, g++ or clang++")


HIDDEN, HEADS, BATCH, STEPS, ROUNDS = 256, 8, 32, 64, 9


def gradient(loss: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """The gradient with respect to all arguments, compiled and run once."""
    import jax

    slopes = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments)))))
    jax.block_until_ready(slopes(*arguments))
    return lambda: jax.block_until_ready(slopes(*arguments))


def layer_gradient(cell: Any, backend: str) -> Callable[[], Any]:
    """One layer forward and backward."""
    import jax
    import jax.numpy as jnp

    from lmseq.recurrence.cells.cell import Recurrent
    from lmseq.recurrence.unrolled import unroll_layer

    kernel_key, x_key = jax.random.split(jax.random.key(0))
    gates, state = cell.num_gates * HIDDEN, cell.init_state(BATCH, HIDDEN)
    kernel = jax.random.normal(kernel_key, (HIDDEN, gates)) / HIDDEN**0.5
    xs = jax.random.normal(x_key, (STEPS, BATCH, gates))

    def loss(kernel, xs):
        return jnp.sum(unroll_layer(cell, Recurrent(kernel), state, xs, backend=backend)[1] ** 2)

    return gradient(loss, kernel, xs)


def attention_gradient(backend: str) -> Callable[[], Any]:
    """Attention forward and backward."""
    import jax
    import jax.numpy as jnp

    from lmseq.mixers.attention import empty_cache
    from lmseq.mixers.compiled_attention import attend_by

    cache = empty_cache(BATCH, STEPS, HEADS, HIDDEN // HEADS)
    shape = (BATCH, STEPS, HEADS, HIDDEN // HEADS)
    rows = [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3)]

    def loss(*rows):
        return jnp.sum(attend_by(backend, cache, *rows)[1] ** 2)

    return gradient(loss, *rows)


def timings() -> dict[str, float]:
    """Milliseconds of each cell, and of attention, by each of the two, taking turns; medians."""
    from lmseq.recurrence.cells import CELLS

    kinds = {cell.name: partial(layer_gradient, cell) for cell in CELLS if cell.native is not None}
    found = {}
    for kind, make in (kinds | {"attention": attention_gradient}).items():
        works = {name: make(name) for name in ("scan", "native")}
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                begun = seconds()
                work()
                taken[name].append(1e3 * (seconds() - begun))
        scan, native = (statistics.median(each) for each in taken.values())
        say(f"{kind:<9} {native:6.1f} ms, {scan:.1f} ms by XLA's loops")
        found |= {f"{kind}_native": native, f"{kind}_scan": scan}
    return found


def act(options: NativeOptions, given: Given) -> int:
    """Compile, load, time."""
    from lmseq.compiled import native_folder
    from lmseq.ngram import native as counts
    from lmseq.recurrence import library as loops

    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    folder = native_folder()
    for module in (loops, counts):
        if not module.is_loaded():  # there is none yet, or it is damaged
            say(f"compiling {module.LIBRARY.name} (some 15 seconds)")
            module.load(module.LIBRARY.compile(folder, options.compiler or None))
        say(f"{module.LIBRARY.path(folder)}")
    found = {"library": str(loops.LIBRARY.path(folder)), "counts_library": str(counts.LIBRARY.path(folder))}
    print(to_json(found | {"milliseconds": timings()}))
    return 0


COMMAND = Command(__doc__, NativeOptions, act)

if __name__ == "__main__":
    main(COMMAND)

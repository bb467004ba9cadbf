"""Damaged files and tables through the compiled code, under the address and undefined-behaviour sanitizers.

    python -m tests.sanitize --number=10000 --seed=0        (or: make sanitize)

The libraries are compiled with the sanitizers into a temporary folder. A second process, with the sanitizer's
own library in front of all others, sends so many mutated ARPA files and as many mutated tables through the
routines on count models, each from a seed of its own, small layers through the loops of recurrent cells and
of attention, rows through products and sums, and tables in which nothing fits through draws. A ValueError is
what a damaged file may end in; each tenth file is read by NumPy too, and must mean the same. Whatever a
sanitizer finds ends the process, and its report names the line. Exit status 0: nothing was found.
"""

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from lmseq import compiled
from lmseq.ngram import arpa_lines, arpa_routines, native, smoothing
from lmseq.ngram.arpa import read_arpa, write_arpa
from lmseq.ngram.backoff import BackoffTables
from lmseq.ngram.counts import FIRST_WORD_ID, count_ngrams, mark_sentences
from lmseq.ngram.queries import NativeQueries

GOLDEN = Path(__file__).parent / "golden" / "small.arpa"
OPTIONS = "-std=c++20 -O1 -g -ffp-contract=fast -fPIC -shared -pthread -w".split()
OPTIONS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
ODD = [
    b"\0",
    b"\n",
    b"\n\n",
    b"\\",
    b"\t",
    b" ",
    b"-",
    b".",
    b"e",
    b"9" * 30,
    b"<s>",
    b"<UNK>",
    b"\xff",
    b"x" * 300,
]
SHAPES = [(3, 1, 16), (2, 25, 33), (1, 1, 1), (4, 13, 8), (2, 2, 47)]  # time, batch, hidden


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Once or twice: bytes cut out, doubled, moved, replaced by odd ones, or the rest cut off."""
    for _ in range(rng.integers(1, 3)):
        start, other = rng.integers(0, len(data) + 1, 2).tolist()
        stop = min(len(data), start + int(rng.choice([1, 2, 10, 200])))
        match rng.choice(["cut", "double", "move", "odd", "digit", "byte", "end"]):
            case "cut":
                data = data[:start] + data[stop:]
            case "double":
                data = data[:stop] + data[start:]
            case "move":
                data = data[:other] + data[start:stop] + data[other:]
            case "odd":
                data = data[:start] + ODD[rng.integers(len(ODD))] + data[stop:]
            case "digit":
                data = data[:start] + b"%d" % rng.integers(10) + data[start + 1 :]
            case "byte":
                data = data[:start] + bytes([rng.integers(256)]) + data[start + 1 :]
            case _:
                data = data[:start]
    return data


def meaning(path: Path, backend: str) -> object:
    """What is in a file, to the last bit, or what is wrong with it."""
    try:
        model = read_arpa(path, backend=backend)
    except ValueError as error:
        return str(error)
    return model.words, [[array.tobytes() for array in table] for table in model.tables.orders]


def try_file(folder: Path, rng: np.random.Generator, compare: bool) -> bool:
    """One mutated file, in pieces of some size; whether it could be read."""
    arpa_lines.BLOCK = int(rng.choice([200, 1000, 1 << 22]))
    arpa_routines.LEAST_PIECE = int(rng.choice([50, 1000, 1 << 16]))
    path, content = folder / "m.arpa", mutated(GOLDEN.read_bytes(), rng)
    path.write_bytes(mutated(gzip.compress(content, 1), rng) if rng.random() < 0.1 else content)
    found = meaning(path, "native")
    if compare and found != meaning(path, "numpy"):
        raise AssertionError(f"the two readers disagree about {path}: {str(found)[:300]}")
    return not isinstance(found, str)


def small_model(rng: np.random.Generator, order: int) -> tuple[BackoffTables, list[str]]:
    """Counts of a made text, and its words."""
    size = int(rng.choice([3, 20, 200]))
    texts = [rng.integers(FIRST_WORD_ID, FIRST_WORD_ID + size, rng.integers(0, 30)) for _ in range(40)]
    counts = count_ngrams(
        mark_sentences([text.astype(np.int32) for text in texts]), FIRST_WORD_ID + size, order
    )
    words = [f"w{i}" * int(rng.choice([1, 1, 9])) for i in range(size)]
    return smoothing.modified_kneser_ney(counts, discount_fallback=True).tables, words


def damaged(tables: BackoffTables, rng: np.random.Generator) -> BackoffTables:
    """Some numbers of some arrays are any, small or near, or an array is cut short."""
    orders = [list(table) for table in tables.orders]
    for _ in range(rng.integers(1, 6)):
        arrays = orders[rng.integers(len(orders))]
        which = int(rng.choice([0, 0, 0, 1, 1, 2, 3]))
        array = arrays[which].copy()
        if len(array):
            places = rng.integers(0, len(array), rng.integers(1, 5))
            if array.dtype == np.int32:
                any_number = rng.integers(-(1 << 31), 1 << 31, len(places))
                array[places] = rng.choice([any_number, array[places] + rng.integers(-3, 4, len(places))])
            else:
                array[places] = rng.choice([np.nan, np.inf, -np.inf, 0.0, 1e308, -1.0], len(places))
        arrays[which] = array[: len(array) - (rng.random() < 0.02)]
    return replace(tables, orders=tuple(type(tables.orders[0])(*arrays) for arrays in orders))


def try_tables(tables: BackoffTables, words: list[str], folder: Path, rng: np.random.Generator) -> None:
    """All questions to damaged tables, with states of theirs, of others and of nobody; and writing them."""
    asked = NativeQueries(damaged(tables, rng), words)
    size = len(words) + FIRST_WORD_ID
    line = " ".join(rng.choice([*words, "unheard", "é" * 40, "\0"], rng.integers(0, 80)))
    asked.score(line), asked.score_words(line)
    stream = rng.integers(0, size, 100)
    asked.score_stream(stream)
    states = [asked.begin, asked.nothing]
    for word in stream[:20].tolist():
        states.append(asked.extend(states[-1], word)[0])
    rows = asked.rows(states).copy()
    asked.extend_all(rows, rng.integers(0, size, len(rows)))
    rows[rng.integers(len(rows)), rng.integers(rows.shape[1])] = rng.integers(-(1 << 31), 1 << 31)
    for question in (
        lambda: asked.extend(rows[-1].tobytes(), 3),
        lambda: asked.extend_all(rows, rng.integers(0, size, len(rows))),
        lambda: write_arpa(folder / "w.arpa", asked.tables, words, backend="native"),
    ):
        with suppress(ValueError):
            question()


def loops(path: Path) -> None:
    """Layers of every cell with loops of its own, forward and backward, on one thread and on three."""
    import jax
    import jax.numpy as jnp

    from lmseq.recurrence import library as recurrence
    from lmseq.recurrence.cells import CELLS
    from lmseq.recurrence.cells.cell import Inputs
    from lmseq.recurrence.unrolled import unroll_layer
    from tests.oracles import cell_inputs

    recurrence.load(path)
    precisions = ["float32", *(["bfloat16"] if recurrence.is_loaded("bfloat16") else [])]
    cells = [cell for cell in CELLS if cell.native is not None]
    for cell in cells:
        for threads, precision in ((1, "float32"), (3, precisions[-1])):
            recurrence.num_threads = lambda threads=threads: threads
            for shape in SHAPES:
                weights, state, xs = cell_inputs(cell, *shape)

                ids = jnp.full(xs.shape[:2], 3, jnp.int32).at[0].set(-7)  # of a table of two rows

                def loss(weights, xs, cell=cell, state=state, precision=precision, ids=ids):
                    inputs = Inputs(xs), Inputs(xs[0, :1].repeat(2, 0), xs[0, 0], ids)
                    layers = [
                        unroll_layer(cell, weights, state, each, precision, "native") for each in inputs
                    ]
                    return sum(jnp.sum(outputs**2) for _, outputs in layers)

                jax.block_until_ready(jax.jit(jax.value_and_grad(loss, (0, 1)))(weights, xs))
    from lmseq.mixers.compiled_attention import attend_by
    from tests.test_compiled_attention import CASES, drawn, slopes

    for threads in (1, 3):
        recurrence.num_threads = lambda threads=threads: threads
        for sizes, filled in CASES:
            jax.block_until_ready(slopes(partial(attend_by, "native"), *drawn(sizes, filled)))
        products(precisions)
    from tests import test_compiled_draws as draws

    for seed in range(100):
        draws.a_round(*draws.foreign(seed))
    limits = {"top_k": 20, "top_p": np.float32(0.9), "temperature": np.float32(1.0)}
    for vocab_size in (20, 65, 10_007):
        for value in (0.0, -np.inf, np.nan):
            rows = np.random.default_rng(0).normal(size=(50, vocab_size)).astype(np.float32)
            rows[::2, vocab_size // 3 :] = value
            tokens = [jax.ShapeDtypeStruct((50,), np.int32)]
            arrays = np.full((50, 1), 0.5, np.float32), rows
            jax.block_until_ready(recurrence.call("draw_likeliest", tokens, *arrays, **limits))
    print(
        f"loops of {', '.join(cell.name for cell in cells)}: {len(SHAPES)} shapes each, {precisions}; "
        f"attention: {len(CASES)} shapes; draws",
        flush=True,
    )


def products(precisions: Sequence[str]) -> None:
    """Products and sums over rows of either type."""
    import jax

    from tests import test_product_over_rows as tested

    for kind in (tested.SINGLE, tested.HALF) if "bfloat16" in precisions else (tested.SINGLE,):
        for before, rows, count, tall, wide in tested.SHAPES:
            sizes = (before, tall), (rows, tall), (count, wide)
            arrays = [tested.draw(size, kind, seed) for seed, size in enumerate(sizes)]
            for precision in precisions:
                jax.block_until_ready(tested.compiled(precision, *arrays))
        for shape in tested.TABLES:
            rows, ids, vocab_size = tested.tables(*shape, kind)
            sizes = [(vocab_size, rows.shape[1])]
            jax.block_until_ready(tested.library.call("sum_by_id", sizes, ids.at[:1].set(-1), rows))


def work(seed: int, number: int, counts: Path, recurrence: Path) -> None:
    """What the second process does."""
    native.load(counts)
    arpa_routines.num_cores = lambda: 3
    folder, read, answered = counts.parent, 0, 0
    for i in range(number):
        read += try_file(folder, np.random.default_rng([seed, i, 0]), compare=i % 10 == 0)
    print(f"{number} ARPA files, of which {read} could be read", flush=True)
    for i in range(number):
        rng = np.random.default_rng([seed, i, 1])
        if i % 100 == 0:
            tables, words = small_model(rng, 1 + i // 100 % 5)
        try:
            with np.errstate(all="ignore"):  # sums of what is infinite
                try_tables(tables, words, folder, rng)
            answered += 1
        except ValueError as error:
            assert "\n" not in str(error)
    print(f"{number} tables, of which {answered} were answered by", flush=True)
    loops(recurrence)


def main() -> int:
    """Compile, and start the second process."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--number", type=int, default=10_000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--march", default="native", help="a processor with other vectors, such as x86-64-v3")
    flags.add_argument("--libraries", nargs=2, type=Path, help="of the second process")
    given = flags.parse_args()
    if given.libraries:
        work(given.seed, given.number, *given.libraries)
        return 0
    from lmseq.recurrence import library as recurrence

    compiler = compiled.find_compiler()
    runtime = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in ("libasan.so", "libstdc++.so.6")  # the latter, or JAX could throw no exception
    ]
    with tempfile.TemporaryDirectory() as folder:
        print("compiling with the sanitizers", flush=True)
        made = [
            str(replace(library, options=(*OPTIONS, f"-march={given.march}")).compile(Path(folder), compiler))
            for library in (native.LIBRARY, recurrence.LIBRARY)
        ]
        command = [sys.executable, "-m", "tests.sanitize", f"--seed={given.seed}", f"--number={given.number}"]
        env = os.environ | {
            "LD_PRELOAD": ":".join(found.stdout.strip() for found in runtime),
            "PYTHONMALLOC": "malloc",  # or what is read behind the end of bytes would not be noticed
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "JAX_PLATFORMS": "cpu",
        }
        done = subprocess.run([*command, "--libraries", *made], env=env)
    print("nothing was found" if done.returncode == 0 else "see above", flush=True)
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())

"""The routines of `cpp/` on count models: compiled once for a processor, then called with arrays and bytes.

Optional: everything runs without them. `LIBRARY.compile` needs a C++ compiler; `load` makes what it left
known for the rest of the process. What they give equals what NumPy gives beside them, to the last bit.
"""

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from lmseq.compiled import Library, native_folder, open_library
from lmseq.ngram.backoff import BackoffTables, OrderTable, check_shapes
from lmseq.ngram.counts import FIRST_WORD_ID

LIBRARY = Library("counts", Path(__file__).with_name("cpp"))
MOST_ORDER = 64  # as in cpp/tables.h
_MODEL = [c_int32, *[POINTER(c_void_p)] * 4, c_void_p, c_double, c_bool, c_int32, c_char_p, c_void_p]
_MODEL += [c_int64, c_int32]
_READ = [c_void_p, c_void_p, c_int64, c_int32, c_bool, c_int64, *[c_void_p] * 3, POINTER(c_int64)]
_WRITE = [c_int32, *[POINTER(c_void_p)] * 2, c_void_p, c_char_p, c_void_p, c_int64, c_int64]
_WRITE += [*[c_void_p] * 3, c_int64]
# Results and arguments. Addresses of arrays are passed as numbers, which takes a tenth of the time.
SIGNATURES = {
    "lmseq_model": (c_void_p, _MODEL),
    "lmseq_free": (None, [c_void_p]),
    "lmseq_words": (c_int64, [c_void_p, c_char_p, c_int64, c_void_p]),
    "lmseq_stream": (c_bool, [c_void_p, c_void_p, c_int64, c_void_p]),
    "lmseq_extend_all": (None, [c_void_p, c_void_p, c_void_p, c_int64, c_void_p, c_void_p]),
    "lmseq_vocabulary": (c_void_p, [c_char_p, c_void_p, c_int64]),
    "lmseq_free_vocabulary": (None, [c_void_p]),
    "lmseq_read_lines": (c_int64, _READ),
    "lmseq_prefix_ranks": (c_int64, [c_int32, *[POINTER(c_void_p)] * 2, *[c_void_p] * 2, c_int64, c_void_p]),
    "lmseq_sort": (c_bool, [c_void_p, c_int64, c_void_p]),
    "lmseq_write_lines": (c_int64, _WRITE),
}


# What cpp/functions.cc calls of Python's stable ABI, in its order.
PYTHON = """PyUnicode_AsUTF8AndSize PyBytes_AsStringAndSize PyLong_AsLongLong PyLong_AsVoidPtr PyErr_Clear
PyFloat_FromDouble PyBytes_FromStringAndSize PyTuple_Pack PyCFunction_NewEx Py_DecRef""".split()


class _Loaded:
    """The library, for the whole process."""

    library: ctypes.CDLL | None = None


def load(path: Path) -> None:
    """Make a compiled library known; a second time does nothing. Raises OSError for a damaged one."""
    if _Loaded.library is not None:
        return
    library = open_library(path, (*SIGNATURES, "lmseq_function"))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    _Loaded.library = library


def is_loaded() -> bool:
    """Whether there is a library."""
    return _Loaded.library is not None


def find() -> bool:
    """Load what `make native` left in the user's cache folder, if it did; whether there is a library now."""
    with suppress(OSError):  # there is none, or it is damaged: NumPy does the same
        load(LIBRARY.path(native_folder()))
    return is_loaded()


def library() -> ctypes.CDLL:
    """The library; ValueError where there is none."""
    if _Loaded.library is None:
        raise ValueError(
            "expected the compiled routines of count models, they are not there: `make native` compiles "
            "them, native.find() loads them"
        )
    return _Loaded.library


def functions_of(model: int) -> tuple[Callable[[str], float], Callable[[bytes, int], Any]]:
    """`score` and `extend` of a model, by its address, as functions that are called like Python's own.

    A foreign call takes longer than a short sentence. They give a NaN for what is wrong: a word kept for
    ends, a state of another model, what is no word's id.
    """
    # A handle that keeps Python's lock: they make Python's objects.
    make = ctypes.PyDLL(library()._name).lmseq_function
    make.restype, make.argtypes = ctypes.py_object, [c_void_p, ctypes.py_object, c_int32]
    calls = [ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p).value for name in PYTHON]
    python = (c_void_p * len(calls))(*calls)
    return make(python, model, 0), make(python, model, 1)


def addresses(orders: Sequence[OrderTable]) -> tuple[list[Any], Int64[np.ndarray, "order"], Any]:
    """Addresses of the arrays of each field, order by order; entries of each order; the arrays themselves."""
    kinds = OrderTable(np.int32, np.int32, np.float64, np.float64)
    columns = [
        [np.ascontiguousarray(array, kind) for array in arrays]
        for kind, arrays in zip(kinds, zip(*orders, strict=True), strict=True)
    ]
    pointers = [(c_void_p * len(orders))(*(array.ctypes.data for array in column)) for column in columns]
    return pointers, np.array([len(table.word) for table in orders], np.int64), columns


def offsets_of(words: Sequence[bytes]) -> Int64[np.ndarray, "_"]:
    """Where each word begins among all of them, and where the last one ends."""
    return np.append(0, np.cumsum([len(word) for word in words], dtype=np.int64))


def open_model(tables: BackoffTables, words: Sequence[bytes], number: int) -> tuple[int, Any]:
    """The address of a model as cpp/queries.h has it, and what must stay as long as it does.

    words: those of ids 3, 4, ..., empty where there is none. number: of the model, which its states carry.
    Raises ValueError for tables whose arrays do not fit together, or of more than 64 orders.
    """
    check_shapes(tables)
    pointers, sizes, kept = addresses(tables.orders)
    offsets = offsets_of(words)
    model = library().lmseq_model(
        tables.order,
        *pointers,
        sizes.ctypes.data,
        tables.log_unseen,
        tables.fallback == "unigram",
        number,
        b"".join(words),
        offsets.ctypes.data,
        len(words),
        FIRST_WORD_ID,
    )
    if not model:
        raise ValueError(
            f"expected a model of at most {MOST_ORDER} orders that fits into memory, "
            f"got one of {tables.order}"
        )
    return model, kept

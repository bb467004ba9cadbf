"""One file for a count model: an uncompressed .npz whose arrays are mapped into memory, not read."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmseq.files import release, replacing
from lmseq.ngram.backoff import BackoffTables, OrderTable, check_shapes

FALLBACKS = ("shorter", "unigram")
# What zipfile and NumPy raise for files that are not whole; RuntimeError for one that seems encrypted.
DAMAGE = (zipfile.BadZipFile, KeyError, IndexError, ValueError, EOFError, OverflowError, RuntimeError)


def save_tables(path: Path, tables: BackoffTables, **more: np.ndarray) -> None:
    """Write tables, and other arrays by name, whole or not at all."""
    arrays: dict[str, Any] = {
        f"{field}_{n}": array
        for n, table in enumerate(tables.orders, start=1)
        for field, array in table._asdict().items()
    }
    arrays |= {
        "log_unseen": np.float64(tables.log_unseen),
        "fallback": np.int32(FALLBACKS.index(tables.fallback)),
    }
    with replacing(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (arrays | more).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
            release([array])


def load_tables(path: Path, *, verify: bool = True) -> tuple[BackoffTables, dict[str, np.ndarray]]:
    """The tables of a file, and its other arrays by name; read-only, mapped into memory.

    verify: read everything once and compare checksums; without it a file opens in milliseconds, however
    large. Raises ValueError for a file that is missing, damaged, truncated, or no such file.
    """
    try:
        arrays = _mapped(path, verify)
        orders = []
        while f"word_{len(orders) + 1}" in arrays:
            n = len(orders) + 1
            orders.append(OrderTable(*(arrays.pop(f"{field}_{n}") for field in OrderTable._fields)))
        tables = BackoffTables(tuple(orders))
        tables = replace(
            tables,
            log_unseen=float(arrays.pop("log_unseen")),
            fallback=FALLBACKS[int(arrays.pop("fallback"))],
        )
        check_shapes(tables)
    except FileNotFoundError:
        raise ValueError(f"expected count tables in {path}, but there is no such file") from None
    except DAMAGE as error:
        raise ValueError(
            f"{path} is damaged or holds no count tables ({error}): make it again, or restore it from a copy"
        ) from None
    return tables, arrays


def _mapped(path: Path, verify: bool) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed .npz, each mapped where it lies: `np.load` maps .npy files only."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        if verify and (bad := archive.testzip()):
            raise ValueError(f"the checksum of {bad} is wrong")
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed")
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read_header = np.lib.format.read_array_header_1_0
                if version != (1, 0):
                    read_header = np.lib.format.read_array_header_2_0
                shape, _, dtype = read_header(stream)
                size = dtype.itemsize * int(np.prod(shape))
                if dtype.hasobject or stream.tell() + size != member.file_size:
                    raise ValueError(f"{member.filename} is no array of numbers")
                with path.open("rb") as file:
                    file.seek(member.header_offset + 26)
                    name, extra = np.frombuffer(file.read(4), "<u2").tolist()
                offset = member.header_offset + 30 + name + extra + stream.tell()
            array = np.zeros(shape, dtype)
            if size:
                array = np.memmap(path, dtype, "r", offset, shape)
            arrays[member.filename.removesuffix(".npy")] = array
    return arrays

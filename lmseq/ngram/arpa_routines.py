"""The compiled routines on ARPA files: they read and write what is plain, by all cores, a block at a time.

What they do not take, they leave: to `arpa_sections` and `arpa`, which are the definition, and say what is
wrong. So every file means the same by both, and has the same error.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import byref, c_int64
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64

from lmseq.compiled import num_cores
from lmseq.data.marks import UNK
from lmseq.ngram import native
from lmseq.ngram.arpa_lines import ArpaLines
from lmseq.ngram.backoff import OrderTable
from lmseq.ngram.spelling import UNK_CAPITALS

LEAST_LINE = 4  # bytes of the shortest line: a digit, a blank, a word of a letter, its end
PART = 1 << 16  # entries that are written at once
LEAST_PIECE = 1 << 16  # bytes, or entries, that are worth a thread


class Lines(NamedTuple):
    """Lines of one order: ids (E, n), log10 p, log10 of back-off weights."""

    ids: Int[np.ndarray, "entry order"]
    log_prob: Float[np.ndarray, "entry"]
    log_backoff: Float[np.ndarray, "entry"]


class Routines:
    """What is at work on one file: the routines, a pool of threads, and the words of the file.

    Raises ValueError where no routines are loaded.
    """

    def __init__(self) -> None:
        self._library, self._vocabulary = native.library(), None
        self._num_threads = num_cores()
        self._pool = ThreadPoolExecutor(self._num_threads)

    def __enter__(self) -> "Routines":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        if self._vocabulary:
            self._library.lmseq_free_vocabulary(self._vocabulary)

    # Reading

    def read_lines(self, reader: ArpaLines, n: int, ids: dict[bytes, int], highest: bool) -> list[Lines]:
        """Plain lines of n words that come next in a file, as far as it is in memory; perhaps none.

        ids: those of words, to which order 1 adds its own.
        """
        reader.fill()
        if n > 1 and self._vocabulary is None:
            self._vocabulary = self._know(list(ids))
        text = np.frombuffer(reader.buffer, np.uint8)
        cuts = self._cuts(reader.buffer)
        work = [
            self._pool.submit(self._read_piece, text[start:stop], n, highest)
            for start, stop in pairwise(cuts)
        ]
        reader.read_ahead()
        parts, taken = [], 0
        for start, piece in zip(cuts, work, strict=False):
            lines, size = piece.result()
            if taken == start and size:
                if n == 1:
                    lines = lines._replace(ids=_numbered(reader.buffer, start + lines.ids, ids))
                parts.append(lines)
                taken = start + size
        reader.skip(taken, sum(len(lines.log_prob) for lines in parts))
        return parts

    def _know(self, names: Sequence[bytes]) -> int:
        offsets = native.offsets_of(names)
        found = self._library.lmseq_vocabulary(b"".join(names), offsets.ctypes.data, len(names))
        if not found:
            raise MemoryError
        return found

    def _cuts(self, text: bytes) -> list[int]:
        """Ends of lines that cut the whole lines of a text into about equal pieces, one a thread."""
        size = max(len(text) // self._num_threads, LEAST_PIECE)
        cuts = [0]
        while (end := text.find(b"\n", cuts[-1] + size) + 1) > 0:
            cuts.append(end)
        last = text.rfind(b"\n") + 1
        return [*cuts, last] if last > cuts[-1] else cuts

    def _read_piece(self, text: np.ndarray, n: int, highest: bool) -> tuple[Lines, int]:
        """Its plain lines up to one that is not, and their bytes; of order 1 ids are places of words."""
        most, count = text.size // (LEAST_LINE + 2 * (n - 1)) + 1, c_int64()
        found = Lines(np.empty((most, max(n, 2)), np.int32), np.empty(most), np.empty(most))
        places = [array.ctypes.data for array in found]
        size = self._library.lmseq_read_lines(
            self._vocabulary, text.ctypes.data, text.size, n, highest, most, *places, byref(count)
        )
        # Copies, as the arrays were made for lines as short as there are.
        return Lines(*(array[: count.value].copy() for array in found)), size

    def prefix_ranks(
        self, below: Sequence[OrderTable], ids: Int[np.ndarray, "entry order"]
    ) -> Int64[np.ndarray, "entry"] | None:
        """Ranks in the last of orders 1 ... n - 1 of the first n - 1 of n words; None where one has none."""
        ranks, (pointers, sizes, _kept) = np.empty(len(ids), np.int64), native.addresses(below)

        def find(start: int, stop: int) -> bool:
            part = ids[start:stop]
            places = sizes.ctypes.data, part.ctypes.data, len(part), ranks[start:].ctypes.data
            return self._library.lmseq_prefix_ranks(len(below) + 1, *pointers[:2], *places) == len(part)

        return ranks if all(self._share(find, len(ids))) else None

    def _share(self, work: Callable[[int, int], Any], size: int) -> list[Any]:
        """What some work gives for ranges of so many entries, one a thread."""
        step = max(-(-size // self._num_threads), LEAST_PIECE)
        shared = [self._pool.submit(work, start, min(start + step, size)) for start in range(0, size, step)]
        return [each.result() for each in shared]

    def argsort(self, keys: Int64[np.ndarray, "entry"]) -> Int64[np.ndarray, "entry"]:
        """Places of ascending keys, none below 0; equal ones in the order in which they come."""
        order = np.empty(len(keys), np.int64)
        if not self._library.lmseq_sort(keys.ctypes.data, len(keys), order.ctypes.data):
            raise MemoryError
        return order

    # Writing

    def write_lines(
        self,
        orders: Sequence[OrderTable],
        names: Sequence[bytes],
        numbers: Callable[[slice], tuple[np.ndarray, np.ndarray | None]],
        size: int,
    ) -> Iterator[tuple[slice, bytes | None]]:
        """Entries of the last of some orders, part by part: the lines of each, None where they are not plain.

        numbers: what is written of a part, log10 p and log10 of back-off weights.
        """
        n, (pointers, sizes, _kept) = len(orders), native.addresses(orders)
        offsets, joined = native.offsets_of(names), b"".join(names)
        longest = n * (int(np.diff(offsets).max(initial=0)) + 1) + 80

        def write(part: slice) -> bytes | None:
            log_prob, log_backoff = numbers(part)
            weights = None if log_backoff is None else log_backoff.ctypes.data
            room = (part.stop - part.start) * min(longest, 16 * n + 80)
            while room <= (part.stop - part.start) * longest:
                text = np.empty(room, np.uint8)
                places = joined, offsets.ctypes.data, part.start, part.stop
                values = log_prob.ctypes.data, weights, text.ctypes.data, room
                done = self._library.lmseq_write_lines(n, *pointers[:2], sizes.ctypes.data, *places, *values)
                if done >= 0:
                    return text[:done].tobytes()
                room *= 4
            return None

        parts = [slice(start, min(start + PART, size)) for start in range(0, size, PART)]
        written: deque[Future] = deque()
        for place, part in enumerate(parts):
            while len(written) < min(2 * self._num_threads, len(parts) - place):
                written.append(self._pool.submit(write, parts[place + len(written)]))
            yield part, written.popleft().result()


def _numbered(
    text: bytes, places: Int[np.ndarray, "entry 2"], ids: dict[bytes, int]
) -> Int[np.ndarray, "entry 1"]:
    """Ids of the words at some places, those of new ones being the next."""
    unknown, found = UNK.encode(), []
    for start, stop in places.tolist():
        word = text[start:stop]
        found.append(ids.setdefault(unknown if word == UNK_CAPITALS.encode() else word, len(ids)))
    return np.array(found, np.int32)[:, None]

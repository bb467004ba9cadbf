"""The lines of one order of an ARPA file: numbers and ids of words, and what is wrong with a line."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmseq.data.marks import UNK
from lmseq.ngram.arpa_lines import ArpaLines
from lmseq.ngram.arpa_routines import Lines, Routines
from lmseq.ngram.spelling import UNK_CAPITALS

LOG10_ZERO = -99.0  # how a probability of zero is written
Progress = Callable[[int], None]  # told how many lines more are done
_TO_SPACES = bytes.maketrans(b"\t\r\0", b"   ")


def _even_fields(block: bytes, width: int) -> list[bytes] | None:
    """All fields of lines that have `width` of them, one blank apart; None where a line is otherwise."""
    if any(mark in block for mark in (b"\r", b"\v", b"\f", b"\0")):
        return None
    array = np.frombuffer(block, np.uint8)
    blank, end = (array == 0x20) | (array == 0x09), array == 0x0A
    apart = blank | end
    if not end[-1] or apart[0] or (apart[1:] & apart[:-1]).any():
        return None
    places = np.flatnonzero(apart)
    ends = np.flatnonzero(end[places])
    return block.split() if (np.diff(ends, prepend=-1) == width).all() else None


class Section(NamedTuple):
    """All `Lines` of one order, and the number of the first."""

    ids: Int[np.ndarray, "entry order"]
    log_prob: Float[np.ndarray, "entry"]
    log_backoff: Float[np.ndarray, "entry"]
    line: int


def read_section(
    reader: ArpaLines,
    n: int,
    size: int,
    ids: dict[bytes, int],
    highest: bool,
    progress: Progress,
    routines: Routines | None = None,
) -> tuple[Section, str]:
    """One order, of so many n-grams as was said above, and the first line that is no n-gram.

    ids: those of words, to which order 1 adds its own. routines: compiled ones, which read the lines that are
    plain; what is not, and what is wrong, is read here. Raises ValueError, with the line.
    """
    first, parts = reader.number + 1, []
    reader.skip_empty()
    while True:
        before = reader.number
        if routines is not None and (plain := routines.read_lines(reader, n, ids, highest)):
            parts += plain
        elif block := reader.block():
            parts.append(_read_block(reader, block, n, ids, highest))
        else:
            break
        progress(reader.number - before)
    columns = zip(Lines(np.zeros((0, n), np.int32), np.zeros(0), np.zeros(0)), *parts, strict=True)
    section = Section(*map(np.concatenate, columns), first)
    if len(section.log_prob) != size:
        raise reader.error(f"expected {size} {n}-grams as said above, got {len(section.log_prob)}")
    _check_numbers(reader, section)
    # -99 is how a probability, or a weight, of zero is written.
    for values in (section.log_prob, section.log_backoff):
        values[values <= LOG10_ZERO] = -np.inf
    return section, reader.skip_blank()


def _read_block(reader: ArpaLines, block: bytes, n: int, ids: dict[bytes, int], highest: bool) -> Lines:
    """Lines that follow one another."""
    width = n + 1 if highest else n + 2
    fields = _even_fields(block, width)
    if fields is None:
        fields = _ragged_fields(reader, block, n, highest)
    if UNK_CAPITALS.encode() in block:
        fields = [UNK.encode() if field == UNK_CAPITALS.encode() else field for field in fields]
    number = len(fields) // width
    try:
        log_probs = _numbers(fields[::width])
        log_backoffs = np.zeros(number) if highest else _numbers(fields[n + 1 :: width])
    except ValueError as error:
        raise _first_wrong(reader, fields, width, partial(_is_number, highest), str(error)) from None
    columns = [fields[place::width] for place in range(1, n + 1)]
    if n == 1:
        for word in columns[0]:
            ids.setdefault(word, len(ids))
    try:
        numbers = [np.fromiter(map(ids.__getitem__, column), np.int32, number) for column in columns]
    except KeyError as error:
        what = f"{shown(error.args[0])} is not among the 1-grams"
        raise _first_wrong(
            reader, fields, width, lambda row: all(w in ids for w in row[1 : n + 1]), what
        ) from None
    reader.number += number
    return Lines(np.stack(numbers, axis=1), log_probs, log_backoffs)


def _ragged_fields(reader: ArpaLines, block: bytes, n: int, highest: bool) -> list[bytes]:
    """All fields of lines with any blanks between and around them, and 0 for each missing back-off.

    Of the highest order, which has none, a back-off of 0 is left out.
    """
    fields = []
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=1):
        found = [field for field in line.translate(_TO_SPACES).split(b" ") if field]
        if highest and len(found) == n + 2 and _is_zero(found[-1]):
            found.pop()
        if not n + 1 <= len(found) <= n + 2 - highest:
            what = f"log10 p, {n} words and {'no' if highest else 'a'} back-off"
            raise reader.error(f"expected {what}, got {shown(line)}", reader.number + number)
        fields += found if highest or len(found) == n + 2 else [*found, b"0"]
    return fields


def _first_wrong(
    reader: ArpaLines, fields: list[bytes], width: int, good: Callable[[list[bytes]], bool], what: str
) -> ValueError:
    """The error of the first line of a block that is not good."""
    rows = (fields[start : start + width] for start in range(0, len(fields), width))
    line = next(number for number, row in enumerate(rows, start=1) if not good(row))
    return reader.error(what, reader.number + line)


def _numbers(fields: list[bytes]) -> Float[np.ndarray, "_"]:
    """As floats; ValueError for what is none, such as 1_5, which Python would take."""
    try:
        if not any(b"_" in field for field in fields):
            return np.array(list(map(float, fields)))
    except ValueError:
        pass
    odd = next(field for field in fields if not _is_float(field))
    raise ValueError(f"expected a number, got {shown(odd)}")


def _is_float(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field


def _is_zero(field: bytes) -> bool:
    try:
        return float(field) == 0.0
    except ValueError:
        return False


def _is_number(highest: bool, row: list[bytes]) -> bool:
    """Whether a line begins with a number, and, where it has a back-off, ends with one."""
    try:
        _numbers(row[:1] if highest else [row[0], row[-1]])
    except ValueError:
        return False
    return True


def shown(text: bytes) -> str:
    """The beginning of a text, for a message."""
    return repr(text[:60].decode("utf-8", errors="replace"))


def _check_numbers(reader: ArpaLines, section: Section) -> None:
    log_prob = section.log_prob
    bad = ~(log_prob <= 0.0)
    # -inf is how some write a probability, or a weight, of zero; no weight is infinite.
    bad |= ~(section.log_backoff < np.inf)
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        raise reader.error(
            f"expected log10 p of at most 0 and a number as back-off, got {log_prob[place]:g} and "
            f"{section.log_backoff[place]:g}",
            section.line + place,
        )

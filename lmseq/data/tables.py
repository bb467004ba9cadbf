"""Tables in text files: what separates cells, whether the first row has names, which mark is the decimal one.

A table is read as texts; what they mean is for those who use it: values and times of a series, or the names
in a table of many series.
"""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Decimal = Literal["auto", "point", "comma"]
SEPARATORS = (",", ";", "\t", "|")
MARKS = {"point": ".", "comma": ","}


class Table(NamedTuple):
    """The cells of a file, by column, as texts without spaces around them.

    columns: T texts of each column, by its name; one that the file does not name is named by its place, `1`
    being the first. rows: the line at which each row begins, as a text editor counts them, (T,). header: the
    names as they stand in the file; empty where its first row is data.
    """

    columns: dict[str, list[str]]
    rows: list[int]
    header: tuple[str, ...]


def read_table(path: Path, decimal: Decimal = "auto") -> Table:
    """The table in a file of cells separated by comma, semicolon, tab or bar; gz, bz2 and xz are unpacked.

    The separator is the one by which all rows have as many cells as the first; of several, the one that
    leaves most cells numbers or dates. Commas that are said to be decimal separate only cells in quotes. A
    first row of numbers or dates is data. Blank rows at the end are passed over; others are rows of empty
    cells.

    Raises ValueError where there is no such file, text or table, and for a name that stands there twice.
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty: expected names of columns, and a row for each time")
    lines, cells = _split(text, path, decimal)
    while cells and not any(cells[-1]):
        cells.pop()
    if not cells:
        raise ValueError(f"{path} has no cell that is not empty: expected a row for each time")
    is_data = all(is_blank(cell) or _is_readable(cell) for cell in cells[0])
    header = () if is_data else tuple(cells.pop(0))
    if not cells:
        raise ValueError(f"{path} has names of columns and nothing below them: expected a row for each time")
    width = len(cells[0])
    names = [name or str(place) for place, name in enumerate(header or [""] * width, 1)]
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < width else []
    if twice:
        raise ValueError(f"{path} names a column twice: {quoted(twice[0])}; rename one of them")
    columns = {name: list(column) for name, column in zip(names, zip(*cells, strict=True), strict=True)}
    return Table(columns, lines[len(header) > 0 :][: len(cells)], header)


def quoted(text: str) -> str:
    """A text for a message: in quotes, and cut if it is long."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


# Files


OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_text(path: Path) -> str:
    """The text of a file, unpacked if its suffix says so, without byte order mark, its lines ended by `\\n`.

    Raises ValueError where there is no such file, for a folder, and for what is damaged or not UTF-8.
    """
    if not path.exists():
        raise ValueError(f"expected a file, there is none at {path}")
    if path.is_dir():
        raise ValueError(f"expected a file, {path} is a folder")
    opener = OPENERS.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            content = opener(file).read() if opener else file.read()
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from None
    except OSError as error:
        if opener is None or error.errno is not None:
            raise
        raise ValueError(f"{path} cannot be unpacked: {error}") from None  # bz2 says no more
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8, as its byte {error.start} shows: save it as UTF-8") from None
    return re.sub(r"\r*\n|\r", "\n", text)  # Python on Windows may have written `\r\r\n`


# Separators


_NOTHING = "\x1f"  # separates nothing: a row is one cell


def _split(text: str, path: Path, decimal: Decimal) -> tuple[list[int], list[list[str]]]:
    """The line at which each row begins, and its cells; ValueError where no separator suits all rows."""
    if decimal == "comma":
        with suppress(ValueError):
            return _split_by(text, path, SEPARATORS[1:])
    return _split_by(text, path, SEPARATORS)


def _split_by(text: str, path: Path, separators: Sequence[str]) -> tuple[list[int], list[list[str]]]:
    """The same by one of some separators; if none of them is in the first row, a row is one cell."""
    head = text.lstrip(" \n").split("\n", 1)[0]
    found, faults = [], {}
    for separator in (each for each in separators if each in text):
        try:
            table = _rectangle(text, path, separator)
        except ValueError as fault:
            faults[separator] = fault
        else:
            found += [table] if len(table[1][0]) > 1 else []
    if found:
        return found[0] if len(found) == 1 else max(found, key=lambda each: _readable_share(each[1]))
    within = [separator for separator in faults if separator in head]
    if within:
        raise faults[max(within, key=head.count)]
    return _rectangle(text, path, _NOTHING)


def _readable_share(cells: list[list[str]]) -> float:
    """The share of cells below the first row that are numbers, dates or blank: the better, the larger."""
    below = [cell for row in cells[1:] for cell in row]
    return sum(is_blank(cell) or _is_readable(cell) for cell in below) / max(1, len(below))


def _rectangle(text: str, path: Path, separator: str) -> tuple[list[int], list[list[str]]]:
    """The same by one separator; ValueError unless all rows have as many cells as the first."""
    import pandas  # takes a while

    above = re.match(r"(?: *\n)*", text).group().count("\n")  # blank lines
    try:
        frame = pandas.read_csv(
            io.StringIO(text),
            sep=separator,
            header=None,
            skiprows=above,
            dtype=str,
            na_filter=False,  # so that NaN stands for what a row lacks, and for nothing else
            skip_blank_lines=False,
            skipinitialspace=True,
            engine="python",  # strict about quotes, and it tells a short row from empty cells
            on_bad_lines="error",
        )
    except pandas.errors.ParserError as error:
        told = str(error).replace("fields in line", "cells, as in the first row, in row")
        told += "" if told != str(error) else ": is a quote not closed, or closed within a cell?"
        raise ValueError(f"{path}: {told}") from None
    lacking, texts = frame.isna().to_numpy(), frame.fillna("").to_numpy(object).tolist()
    cells = [[cell.strip() for cell in row] for row in texts]
    breaks = [1 + (sum(cell.count("\n") for cell in row) if '"' in text else 0) for row in texts]
    lines = (above + 1 + np.cumsum([0, *breaks[:-1]])).tolist()
    short = lacking.any(axis=1) & np.array([any(row) for row in cells])
    if short.any():
        row = int(np.argmax(short))
        raise ValueError(
            f"{path}, row {lines[row]}: the first row has {len(cells[0])} cells, this row "
            f"{int((~lacking[row]).sum())}"
        )
    return lines, cells


# Cells


_BLANKS = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "."}
_DATE = re.compile(r"[0-9]{4}[-/](0?[1-9]|1[0-2])\b.*", re.DOTALL)


def _number(mark: str, other: str) -> re.Pattern[str]:
    """A number with this decimal mark; the other one may stand between groups of three digits."""
    whole = rf"([0-9]+|[1-9][0-9]{{0,2}}(\{other}[0-9]{{3}})+)"
    return re.compile(
        rf"[+-]?(({whole}(\{mark}[0-9]*)?|\{mark}[0-9]+)(e[+-]?[0-9]+)?|inf(inity)?)", re.IGNORECASE
    )


_NUMBERS = {".": _number(".", ","), ",": _number(",", ".")}


def is_blank(cell: str) -> bool:
    """Whether a cell says that its value is missing."""
    return cell.lower() in _BLANKS


def is_number(cell: str, mark: str) -> bool:
    """Whether a cell is a number with this decimal mark, `.` or `,`."""
    return _NUMBERS[mark].fullmatch(cell) is not None


def is_date(cell: str) -> bool:
    """Whether a cell looks like a date: it begins with a year and a month."""
    return _DATE.fullmatch(cell) is not None


def _is_readable(cell: str) -> bool:
    return is_number(cell, ".") or is_number(cell, ",") or is_date(cell)


def mostly(cells: Sequence[str], holds: Callable[[str], object]) -> bool:
    """Whether something holds of at least half of the cells that are not blank, and there are any."""
    known = [cell for cell in cells if not is_blank(cell)]
    return bool(known) and 2 * sum(1 for cell in known if holds(cell)) >= len(known)


def is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column is one of numbers, with any decimal mark; cells that are none are faults of it."""
    return any(mostly(cells, pattern.fullmatch) for pattern in _NUMBERS.values())


def decimal_mark(columns: Sequence[Sequence[str]], decimal: Decimal = "auto") -> str:
    """`.` or `,`: as `decimal` says, or the one by which all cells are numbers; `.` where there is no comma.

    Raises ValueError where both will do and mean something else, as in 1,234.
    """
    if decimal != "auto":
        return MARKS[decimal]
    cells = [cell for column in columns for cell in column]
    comma = next((cell for cell in cells if "," in cell), None)
    known = [cell for cell in cells if not is_blank(cell)]
    points = sum(is_number(cell, ".") for cell in known)
    if points == len(known) and comma is None:
        return "."
    commas = sum(is_number(cell, ",") for cell in known)
    if points == commas == len(known):
        raise ValueError(
            f"{quoted(comma)} may be {comma.replace(',', '.')} or {comma.replace(',', '')}: "
            "say --decimal=comma or --decimal=point"
        )
    return "," if commas > points else "."


def numbers(table: Table, name: str, mark: str) -> Float[np.ndarray, "time"]:
    """A column as float64, NaN where a cell is blank; ValueError, saying where, for no finite number."""
    cells, other = table.columns[name], "," if mark == "." else "."
    values = np.full(len(cells), np.nan)
    for place, cell in enumerate(cells):
        if is_number(cell, mark):
            values[place] = float(cell.replace(other, "").replace(mark, "."))
        elif not is_blank(cell):
            raise ValueError(_complaint(cell, table.rows[place], name, mark))
    if np.isinf(values).any():
        place = int(np.argmax(np.isinf(values)))
        where = f"row {table.rows[place]}, column {quoted(name)}"
        raise ValueError(f"{where}: expected a finite number, got {quoted(cells[place])}")
    return values


def _complaint(cell: str, row: int, name: str, mark: str) -> str:
    """What is said of a cell that is no number."""
    if is_date(cell):
        hint = "if these are the times, name the column with --time_column"
    elif any(is_number(cell, each) for each in _NUMBERS):
        hint = f"its decimal mark is not {mark!r}, see --decimal"
    else:
        hint = "a cell is a number without spaces, units or signs"
    return f"row {row}, column {quoted(name)}: expected a number, got {quoted(cell)}: {hint}"

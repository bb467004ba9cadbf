"""Tables in text files: what separates cells, whether the first row has names, which mark is the decimal one.

A table is read as texts. What they mean is for those who use it: here the values and times of a series.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from os.path import exists
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lmseq.data.dates import is_date
from lmseq.packing import DAMAGE, unpacked

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

    The separator is the one by which all rows have as many cells as the first; of several, the one that cuts
    no numbers and dates, and leaves most cells numbers or dates. Commas that are said to be decimal separate
    only cells in quotes. A first row of numbers or dates is data. Blank rows at the end are passed over;
    others are rows of empty cells.

    Raises ValueError where there is no such file, text or table, where two separators do as well, and for a
    name that stands there twice.
    """
    return table_of(path, *read_cells(path, decimal))


def read_cells(path: Path, decimal: Decimal = "auto") -> tuple[list[int], list[list[str]]]:
    """The line at which each row begins, and the cells of each column, names not told from data.

    Blank rows at the end are passed over. Raises ValueError as `read_table` does.
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty: expected names of columns, and a row for each time")
    lines, columns = _split(text, path, decimal)
    while columns[0] and not any(column[-1] for column in columns):
        for column in columns:
            column.pop()
    if not columns[0]:
        raise ValueError(f"{path} has no cell that is not empty: expected a row for each time")
    return lines[: len(columns[0])], columns


def table_of(path: Path, lines: list[int], columns: list[list[str]]) -> Table:
    """The table that cells are, as `read_cells` gives them."""
    is_data = all(is_blank(column[0]) or _is_readable(column[0]) for column in columns)
    header = () if is_data else tuple(column[0] for column in columns)
    start = len(header) > 0
    if not columns[0][start:]:
        raise ValueError(f"{path} has names of columns and nothing below them: expected a row for each time")
    names = [name or str(place) for place, name in enumerate(header or [""] * len(columns), 1)]
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{path} names a column twice: {quoted(twice[0])}; rename one of them")
    cells = [column[start:] for column in columns]
    return Table(dict(zip(names, cells, strict=True)), lines[start:], header)


def quoted(text: str) -> str:
    """A text for a message: in quotes, and cut if it is long."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def read_text(path: Path) -> str:
    """The text of a file, unpacked if it is packed, without byte order mark, its lines ended by `\\n`.

    Raises ValueError where there is no such file, for a folder, and for what is damaged or not UTF-8.
    """
    if not exists(path):  # of pathlib's, a name too long to be a path is an error
        raise ValueError(f"expected a file, there is none at {path}")
    if path.is_dir():
        raise ValueError(f"expected a file, {path} is a folder")
    with path.open("rb") as file:
        try:
            content = unpacked(file).read()
        except DAMAGE as error:
            raise ValueError(f"{path} cannot be read to its end: {error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8, as its byte {error.start} shows: save it as UTF-8") from None
    # Python on Windows may have written `\r\r\n`.
    return re.sub(r"\r*\n|\r", "\n", text) if "\r" in text else text


# Separators


_NOTHING = "\x1f"  # separates nothing: a row is one cell
_Cut = tuple[list[int], list[list[str]]]  # the line at which each row begins, and the cells of each column


def _split(text: str, path: Path, decimal: Decimal) -> _Cut:
    """Lines and columns; ValueError where no separator suits all rows, or two of them do."""
    if decimal != "comma":
        return _split_by(text, path, SEPARATORS, decimal)
    try:
        return _split_by(text, path, SEPARATORS[1:], decimal)
    except ValueError:
        if '",' not in text:
            raise
        return _split_by(text, path, SEPARATORS, decimal)


def _split_by(text: str, path: Path, separators: Sequence[str], decimal: Decimal) -> _Cut:
    """The same by one of some separators; if none of them is in the first row, a row is one cell."""
    head = text.lstrip(" \n").split("\n", 1)[0]
    found: dict[str, _Cut] = {}
    faults: dict[str, ValueError] = {}
    for separator in (each for each in separators if each in text):
        try:
            cut = _rectangle(text, path, separator)
        except ValueError as fault:
            faults[separator] = fault
        else:
            found |= {separator: cut} if len(cut[1]) > 1 else {}
    within = sorted((each for each in faults if each in head), key=head.count)
    if list(found) == [","] and within and '"' not in text:
        # A row that lacks a semicolon must not make decimal commas separators.
        torn, _ = _merit(found[","][1], within, decimal)
        found = {} if -2 * torn >= len(found[","][0]) else found
    if found:
        return found[_best({each: cut[1] for each, cut in found.items()}, path, decimal)]
    if within:
        raise faults[within[-1]]
    return _rectangle(text, path, _NOTHING)


def _best(found: dict[str, list[list[str]]], path: Path, decimal: Decimal) -> str:
    """The separator whose columns are the best; ValueError where two are."""
    if len(found) == 1:
        return next(iter(found))
    merits = {
        each: _merit(columns, [other for other in found if other != each], decimal)
        for each, columns in found.items()
    }
    best = [each for each in found if merits[each] == max(merits.values())]
    if len(best) > 1:
        hint = "say --decimal=comma if commas are decimal, else " if "," in best else ""
        raise ValueError(
            f"{path}: its cells may be separated by {best[0]!r} or by {best[1]!r}: {hint}put cells that hold "
            "one of them in quotes"
        )
    return best[0]


def _merit(columns: list[list[str]], rivals: Sequence[str], decimal: Decimal) -> tuple[int, float]:
    """Of cells below the first row: minus the number of torn ones, and the share of those that are readable.

    A torn cell is not readable, and a rival separator cuts off a part of it that is.
    """
    marks = MARKS.values() if decimal == "auto" else [MARKS[decimal]]
    cut, torn, readable, total = re.compile(f"[{re.escape(''.join(rivals))}]"), 0, 0, 0
    for column in columns:
        below = column[1:] or column
        plain = any(in_bulk(below, mark) is not None for mark in marks)
        unreadable = [
            cell for cell in below if not plain and not is_blank(cell) and not _is_readable(cell, marks)
        ]
        torn += sum(any(_is_readable(part.strip(), marks) for part in cut.split(cell)) for cell in unreadable)
        readable, total = readable + len(below) - len(unreadable), total + len(below)
    return -torn, readable / total


def _rectangle(text: str, path: Path, separator: str) -> _Cut:
    """The same by one separator; ValueError unless all rows have as many cells as the first."""
    above = re.match(r"(?: *\n)*", text).group().count("\n")  # blank lines
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    rows, ends = [], [0]
    try:
        for row in reader:
            rows.append(row)
            ends.append(reader.line_num)
    except csv.Error as error:
        told = f"{error}: is a quote not closed, or closed within a cell?"
        raise ValueError(f"{path}, row {ends[-1] + 1}: {told}") from None
    rows, lines = rows[above:], [end + 1 for end in ends[above:-1]]
    width = len(rows[0])
    for place, row in enumerate(rows):
        if len(row) != width:
            if len(row) > width or any(map(str.strip, row)):
                told = f"the first row has {width} cells, this row {len(row)}"
                raise ValueError(f"{path}, row {lines[place]}: {told}")
            rows[place] = [""] * width
    return lines, [[row[place].strip() for row in rows] for place in range(width)]


# Cells


_BLANKS = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "."}


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


def _is_readable(cell: str, marks: Iterable[str] = ".,") -> bool:
    return is_date(cell) or any(is_number(cell, mark) for mark in marks)


_PLAIN = {mark: b"0123456789+-eE" + mark.encode() for mark in _NUMBERS}


def in_bulk(cells: Sequence[str], mark: str = ".") -> Float[np.ndarray, "time"] | None:
    """Numbers with this decimal mark as float64, NaN where a cell is blank.

    None where a cell is something else, or a number with marks between groups of digits. A number is what
    `is_number` says; this is several times as fast where all cells are numbers.
    """
    for known in (cells, ("" if is_blank(cell) else cell for cell in cells)):
        known = list(known)
        joined = "".join(known)
        if joined.isascii() and not joined.encode().translate(None, _PLAIN[mark]):
            plain = [cell or "nan" for cell in known]
            if mark != ".":
                plain = "\n".join(plain).replace(mark, ".").split("\n")
            with suppress(ValueError):
                return np.fromiter(map(float, plain), np.float64, len(plain))
    return None


def mostly(cells: Sequence[str], holds: Callable[[str], object]) -> bool:
    """Whether something holds of at least half of the cells that are not blank, and there are any."""
    known = [cell for cell in cells if not is_blank(cell)]
    return bool(known) and 2 * sum(1 for cell in known if holds(cell)) >= len(known)


def is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column is one of numbers, with any decimal mark; cells that are none are faults of it."""
    values = in_bulk(cells)
    if values is not None:
        return not np.isnan(values).all()
    return any(mostly(cells, pattern.fullmatch) for pattern in _NUMBERS.values())


def is_dated(cells: Sequence[str]) -> bool:
    """Whether a column is one of dates; cells that are none are faults of it."""
    return in_bulk(cells) is None and mostly(cells, is_date)


def decimal_mark(columns: Sequence[Sequence[str]], decimal: Decimal = "auto") -> str:
    """`.` or `,`: as `decimal` says, or the one by which all cells are numbers; `.` where there is no comma.

    Raises ValueError where both will do and mean something else, as in 1,234.
    """
    if decimal != "auto":
        return MARKS[decimal]
    comma = next((cell for cells in columns for cell in cells if "," in cell), None)
    if comma is None and all(in_bulk(cells) is not None for cells in columns):
        return "."
    known = [cell for cells in columns for cell in cells if not is_blank(cell)]
    points, commas = (sum(is_number(cell, mark) for cell in known) for mark in ".,")
    if comma is not None and points == commas == len(known):
        raise ValueError(
            f"{quoted(comma)} may be {comma.replace(',', '.')} or {comma.replace(',', '')}: "
            "say --decimal=comma or --decimal=point"
        )
    return "," if commas > points else "."


def numbers(table: Table, name: str, mark: str) -> Float[np.ndarray, "time"]:
    """A column as float64, NaN where a cell is blank; ValueError, saying where, for no finite number."""
    cells, other = table.columns[name], "," if mark == "." else "."
    values = in_bulk(cells, mark)
    if values is None:
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

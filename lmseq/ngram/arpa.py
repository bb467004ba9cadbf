r"""ARPA files, the format in which tools exchange back-off models.

    \data\
    ngram 1=4
    ...
    \1-grams:
    -0.8239087 TAB </s> TAB 0        log10 p, words, log10 of the back-off weight

    \2-grams:
    -0.6642079 TAB <s> a
    ...
    \end\
"""

import gzip
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmseq.data.marks import BOS, EOS, UNK
from lmseq.files import replacing
from lmseq.ngram.arpa_lines import ArpaLines
from lmseq.ngram.backoff import BackoffTables, OrderTable
from lmseq.ngram.counts import BOS_ID, CHUNK, EOS_ID, FIRST_WORD_ID, UNK_ID
from lmseq.ngram.spelling import UNK_CAPITALS

LN10 = math.log(10.0)
MARKS = (UNK, BOS, EOS)  # of ids 0, 1, 2
LOG10_ZERO = -99.0  # how a probability of zero is written
BYTES_AN_NGRAM = 60  # while a file is read
_TO_SPACES = bytes.maketrans(b"\t\r\0", b"   ")
Progress = Callable[[int], None]  # told how many lines more are done
Begin = Callable[[int], None]  # told how many there are


class ArpaModel(NamedTuple):
    """Back-off tables, and the words of ids 3, 4, ... ."""

    tables: BackoffTables
    words: list[str]


# Writing


def write_arpa(
    path: Path, tables: BackoffTables, words: Sequence[str], progress: Progress = lambda lines: None
) -> None:
    """Write a model, gzipped where the name ends in .gz; `words` are those of ids 3, 4, ... .

    To 8 significant digits, `<s>` with log10 p = 0. Raises ValueError for scores that are no probabilities,
    for a model that does not fall back to the next shorter context, for words with blanks in them, and for
    words that the file keeps for itself: `spelling.spell_symbols` spells what is distinct and can be written.
    """
    if not tables.is_proper() or tables.fallback != "shorter":
        raise ValueError(
            "expected probabilities that back off to the next shorter context: ARPA files hold nothing else"
        )
    names = [*MARKS, *words]
    if len(names) != tables.vocab_size or len(set(names)) < len(names):
        raise ValueError(
            f"expected {tables.vocab_size - FIRST_WORD_ID} distinct words, got {len(set(words))}"
        )
    bad = next((word for word in words if not word or set(word) & set(" \t\r\n\0")), None)
    if bad is not None:
        raise ValueError(
            f"expected words without blanks in them, got {bad!r}: an ARPA file separates by blanks"
        )
    if UNK_CAPITALS in words:
        raise ValueError(f"expected no word {UNK_CAPITALS}: readers of ARPA files take it for {UNK}")
    with ExitStack() as files:
        file = files.enter_context(replacing(path, "wb" if path.suffix == ".gz" else "w"))
        if path.suffix == ".gz":
            packed = files.enter_context(gzip.GzipFile(path.name, "wb", fileobj=file))
            file = files.enter_context(io.TextIOWrapper(packed, encoding="utf-8", newline="\n"))
        file.write("\\data\\\n")
        file.writelines(f"ngram {n}={size}\n" for n, size in enumerate(tables.num_ngrams, start=1))
        spelled = _Spelling(tables, names)
        for n, table in enumerate(tables.orders, start=1):
            file.write(f"\n\\{n}-grams:\n")
            for start in range(0, len(table.word), CHUNK >> 4):
                part = slice(start, min(start + (CHUNK >> 4), len(table.word)))
                file.writelines(_lines(table, part, spelled.of(n, part)))
                progress(part.stop - part.start)
        file.write("\n\\end\\\n")


class _Spelling:
    """The words of entries, as text."""

    def __init__(self, tables: BackoffTables, names: Sequence[str]) -> None:
        self.names = np.array(names, object)
        self.tables = tables

    def of(self, n: int, part: slice) -> list[str]:
        """Of consecutive entries of order n."""
        entries, columns = np.arange(part.start, part.stop), []
        for table in reversed(self.tables.orders[:n]):
            columns.append(self.names[table.word[entries]])
            entries = np.searchsorted(table.first, entries, side="right") - 1
        return list(map(" ".join, zip(*reversed(columns), strict=True)))


def _lines(table: OrderTable, part: slice, words: list[str]) -> Iterator[str]:
    with np.errstate(divide="ignore"):
        log_prob = np.maximum(table.log_prob[part] / LN10, LOG10_ZERO)
    if part.start <= BOS_ID < part.stop and len(table.first) == 2:
        log_prob[BOS_ID - part.start] = 0.0  # the reference tool's habit
    if not len(table.log_backoff):
        yield from map("%.8g\t%s\n".__mod__, zip(log_prob.tolist(), words, strict=True))
        return
    log_backoff = np.maximum(table.log_backoff[part] / LN10, LOG10_ZERO) + 0.0  # never -0
    columns = zip(log_prob.tolist(), words, log_backoff.tolist(), strict=True)
    yield from map("%.8g\t%s\t%.8g\n".__mod__, columns)


# Reading


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


def read_arpa(
    path: Path,
    progress: Progress = lambda lines: None,
    memory: int = 0,
    begin: Begin = lambda total: None,
) -> ArpaModel:
    r"""Read a model in any order of lines, from a file or a pipe, as it is or packed by gzip, bzip2 or xz.

    Lines before `\data\` are comments. Back-offs may be missing, and may be 0 at the highest order. `<UNK>`
    is `<unk>`, which has probability zero where the file has neither. `begin` is told the number of n-grams,
    `progress` each few that were read. memory: bytes that may be used, 0 for no bound. Raises ValueError,
    with the line, for counts that do not match, a context that is missing, an n-gram twice, log-probabilities
    above 0 or not numbers, a section out of order, a truncated file, one without `<s>` or `</s>`, and for a
    model that needs more memory than there is.
    """
    with ArpaLines(path) as reader:
        sizes, line = _sizes(reader)
        if memory and BYTES_AN_NGRAM * sum(sizes) > memory:
            needed = BYTES_AN_NGRAM * sum(sizes) / 2**30
            raise ValueError(
                f"{path} has {sum(sizes):,} n-grams, which take about {needed:.1f} GiB to read, and there "
                f"are {memory / 2**30:.1f}: prune the model, or read it on a larger machine"
            )
        begin(sum(sizes))
        sections = []
        ids = {word.encode(): number for number, word in enumerate(MARKS)}
        for n, size in enumerate(sizes, start=1):
            if line != f"\\{n}-grams:":
                raise reader.error(f"expected \\{n}-grams:, got {line[:40]!r}")
            section, line = _section(reader, n, size, ids, n == len(sizes), progress)
            sections.append(section)
            if n == 1:
                _check_marks(reader, section)
        if line != "\\end\\":
            raise reader.error(f"expected \\end\\, got {line[:40]!r}")
    try:
        words = [word.decode() for word in ids]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected words in UTF-8, got {_shown(error.object)}") from None
    return ArpaModel(_tables(sections, len(ids), reader), words[FIRST_WORD_ID:])


def _check_marks(reader: ArpaLines, unigrams: "_Section") -> None:
    """ValueError where every text would have probability zero."""
    for mark in (BOS_ID, EOS_ID):
        if mark not in unigrams.ids:
            raise reader.error(
                f"expected {MARKS[mark]} among the 1-grams, without which no sentence has a probability: "
                "estimate the model from marked sentences, or add it as a 1-gram and count it in ngram 1=",
                unigrams.line,
            )


def _sizes(reader: ArpaLines) -> tuple[list[int], str]:
    """Numbers of n-grams by order, and the line after them."""
    sizes = []
    while (line := reader.skip_blank()).startswith("ngram"):
        name, _, number = line[len("ngram") :].partition("=")
        if (
            name.strip() != str(len(sizes) + 1)
            or not number.strip().isascii()
            or not number.strip().isdigit()
        ):
            raise reader.error(f"expected ngram {len(sizes) + 1}=COUNT, got {line[:40]!r}")
        sizes.append(int(number))
    if not sizes:
        raise reader.error(f"expected ngram 1=COUNT, got {line[:40]!r}")
    return sizes, line


class _Section(NamedTuple):
    """The lines of one order: ids (E, n), log10 p, log10 of back-off weights; the first one's number."""

    ids: Int[np.ndarray, "entry order"]
    log_prob: Float[np.ndarray, "entry"]
    log_backoff: Float[np.ndarray, "entry"]
    line: int


def _section(
    reader: ArpaLines, n: int, size: int, ids: dict[bytes, int], highest: bool, progress: Progress
) -> tuple[_Section, str]:
    """One order, and the first line that is no n-gram."""
    first, words, log_probs, log_backoffs = reader.number + 1, [], [], []
    width = n + 1 if highest else n + 2
    reader.skip_empty()
    while block := reader.block():
        fields = _even_fields(block, width)
        if fields is None:
            fields = _ragged_fields(reader, block, n, highest)
        if UNK_CAPITALS.encode() in block:
            fields = [UNK.encode() if field == UNK_CAPITALS.encode() else field for field in fields]
        number = len(fields) // width
        try:
            log_probs.append(_numbers(fields[::width]))
            log_backoffs.append(np.zeros(number) if highest else _numbers(fields[n + 1 :: width]))
        except ValueError as error:
            raise _first_wrong(reader, fields, width, partial(_is_number, highest), str(error)) from None
        columns = [fields[place::width] for place in range(1, n + 1)]
        if n == 1:
            for word in columns[0]:
                ids.setdefault(word, len(ids))
        try:
            numbers = [np.fromiter(map(ids.__getitem__, column), np.int32, number) for column in columns]
        except KeyError as error:
            what = f"{_shown(error.args[0])} is not among the 1-grams"
            raise _first_wrong(
                reader, fields, width, lambda row: all(w in ids for w in row[1 : n + 1]), what
            ) from None
        words.append(np.stack(numbers, axis=1))
        reader.number += number
        progress(number)
    nothing = np.zeros(0)
    section = _Section(
        np.concatenate([np.zeros((0, n), np.int32), *words]),
        np.concatenate([nothing, *log_probs]),
        np.concatenate([nothing, *log_backoffs]),
        first,
    )
    if len(section.log_prob) != size:
        raise reader.error(f"expected {size} {n}-grams as said above, got {len(section.log_prob)}")
    _check_numbers(reader, section)
    # -99 is how a probability, or a weight, of zero is written.
    for values in (section.log_prob, section.log_backoff):
        values[values <= LOG10_ZERO] = -np.inf
    return section, reader.skip_blank()


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
            raise reader.error(f"expected {what}, got {_shown(line)}", reader.number + number)
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
    raise ValueError(f"expected a number, got {_shown(odd)}")


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


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("utf-8", errors="replace"))


def _check_numbers(reader: ArpaLines, section: _Section) -> None:
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


def _tables(sections: list[_Section], vocab_size: int, reader: ArpaLines) -> BackoffTables:
    """The trie of what was read."""
    bits = max(1, vocab_size - 1).bit_length()
    orders, keys = [], [np.arange(vocab_size)]
    for n, section in enumerate(sections, start=1):
        ranks = section.ids[:, 0].astype(np.int64)
        for depth in range(1, n - 1):
            ranks = _place(keys[depth], (ranks << bits) | section.ids[:, depth], section, reader, n)
        key = (ranks << bits) | section.ids[:, -1] if n > 1 else ranks
        order = np.argsort(key, kind="stable")
        key = key[order]
        twice = np.flatnonzero(key[1:] == key[:-1])
        if len(twice):
            alike = " (<unk> and <UNK> are one word)" if section.ids[order[twice[0]], -1] == UNK_ID else ""
            place = section.line + int(order[twice[0] + 1])
            raise reader.error(f"this {n}-gram is there twice{alike}", place)
        log_prob, log_backoff = LN10 * section.log_prob[order], LN10 * section.log_backoff[order]
        word = section.ids[order, -1]
        if n == 1:
            # Marks that the file does not have can have no probability; `<s>` is never predicted.
            log_prob, log_backoff = (
                _filled(values, key, vocab_size, missing)
                for values, missing in ((log_prob, -np.inf), (log_backoff, 0.0))
            )
            log_prob[BOS_ID] = -np.inf
            word, first = np.arange(vocab_size, dtype=np.int32), np.array([0, vocab_size], np.int32)
        else:
            below = len(orders[-1].word)
            counts = np.bincount(key >> bits, minlength=below)
            first = np.append(0, np.cumsum(counts)).astype(np.int32)
            keys.append(key)
        if n == len(sections):
            log_backoff = np.zeros(0)
        orders.append(OrderTable(first, word, log_prob, log_backoff))
    return BackoffTables(tuple(orders))


def _filled(values, key, size: int, missing: float) -> Float[np.ndarray, "vocab"]:
    filled = np.full(size, missing)
    filled[key] = values
    return filled


def _place(keys, wanted, section: _Section, reader: ArpaLines, n: int) -> Int[np.ndarray, "entry"]:
    place = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    missing = keys[place] != wanted if len(keys) else np.ones(len(wanted), bool)
    if missing.any():
        line = section.line + int(np.flatnonzero(missing)[0])
        raise reader.error(f"the context of this {n}-gram is not in the file", line)
    return place

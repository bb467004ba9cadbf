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
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmseq.data.marks import BOS, EOS, UNK
from lmseq.files import replacing
from lmseq.ngram import native
from lmseq.ngram.arpa_lines import ArpaLines
from lmseq.ngram.arpa_routines import PART, Routines
from lmseq.ngram.arpa_sections import LOG10_ZERO, Progress, Section, read_section, shown
from lmseq.ngram.backoff import BackoffTables, OrderTable
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, UNK_ID
from lmseq.ngram.spelling import UNK_CAPITALS

LN10 = math.log(10.0)
MARKS = (UNK, BOS, EOS)  # of ids 0, 1, 2
BYTES_AN_NGRAM = 60  # while a file is read
Backend = Literal["auto", "numpy", "native"]
Begin = Callable[[int], None]  # told how many there are


class ArpaModel(NamedTuple):
    """Back-off tables, and the words of ids 3, 4, ... ."""

    tables: BackoffTables
    words: list[str]


# Writing


def write_arpa(
    path: Path,
    tables: BackoffTables,
    words: Sequence[str],
    progress: Progress = lambda lines: None,
    backend: Backend = "auto",
) -> None:
    """Write a model, gzipped where the name ends in .gz; `words` are those of ids 3, 4, ... .

    To 8 significant digits, `<s>` with log10 p = 0. Raises ValueError for scores that are no probabilities,
    for a model that does not fall back to the next shorter context, for words with blanks in them, and for
    words that the file keeps for itself: `spelling.spell_symbols` spells what is distinct and can be written.
    backend: as of `read_arpa`.
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
    with ExitStack() as stack:
        file = stack.enter_context(replacing(path, "wb"))
        if path.suffix == ".gz":
            file = stack.enter_context(gzip.GzipFile(path.name, "wb", fileobj=file))
        routines = _routines(stack, backend)
        file.write(b"\\data\\\n")
        for n, size in enumerate(tables.num_ngrams, start=1):
            file.write(f"ngram {n}={size}\n".encode())
        spelling, encoded = _Spelling(tables, names), [name.encode() for name in names]
        for n in range(1, tables.order + 1):
            file.write(f"\n\\{n}-grams:\n".encode())
            for part, lines in _lines_of(spelling, n, encoded, routines):
                file.write(lines)
                progress(part.stop - part.start)
        file.write(b"\n\\end\\\n")


def _routines(stack: ExitStack, backend: Backend) -> Routines | None:
    """The compiled routines, where they are asked for or (auto) loaded, for as long as a stack is open."""
    is_native = backend == "native" or (backend == "auto" and native.is_loaded())
    return stack.enter_context(Routines()) if is_native else None


def _lines_of(
    spelling: "_Spelling", n: int, encoded: Sequence[bytes], routines: Routines | None
) -> Iterator[tuple[slice, bytes]]:
    """The lines of order n in UTF-8, part by part; encoded: the words in it."""
    orders = spelling.tables.orders[:n]
    table, size = orders[-1], len(orders[-1].word)
    if routines is None:
        parts = ((slice(at, min(at + PART, size)), None) for at in range(0, size, PART))
    else:
        parts = routines.write_lines(orders, encoded, partial(_numbers, table), size)
    for part, lines in parts:
        yield part, lines or "".join(_lines(table, part, spelling.of(n, part))).encode()


class _Spelling:
    """The words of entries, as text."""

    def __init__(self, tables: BackoffTables, names: Sequence[str]) -> None:
        self.names = np.array(names, object)
        self.tables = tables

    def of(self, n: int, part: slice) -> list[str]:
        """Of consecutive entries of order n."""
        entries, columns = np.arange(part.start, part.stop), []
        for table in reversed(self.tables.orders[:n]):
            words = table.word[entries]
            if len(words) and not 0 <= words.min() <= words.max() < len(self.names):
                raise ValueError("the tables are damaged, they have what is no word: make them again")
            columns.append(self.names[words])
            entries = np.searchsorted(table.first, entries, side="right") - 1
        return list(map(" ".join, zip(*reversed(columns), strict=True)))


def _numbers(
    table: OrderTable, part: slice
) -> tuple[Float[np.ndarray, "entry"], Float[np.ndarray, "entry"] | None]:
    """What is written of entries: log10 p, and log10 of back-off weights, which the highest order has not."""
    with np.errstate(divide="ignore"):
        log_prob = np.maximum(table.log_prob[part] / LN10, LOG10_ZERO)
    if part.start <= BOS_ID < part.stop and len(table.first) == 2:
        log_prob[BOS_ID - part.start] = 0.0  # the reference tool's habit
    if not len(table.log_backoff):
        return log_prob, None
    return log_prob, np.maximum(table.log_backoff[part] / LN10, LOG10_ZERO) + 0.0  # never -0


def _lines(table: OrderTable, part: slice, words: list[str]) -> Iterator[str]:
    log_prob, log_backoff = _numbers(table, part)
    if log_backoff is None:
        return map("%.8g\t%s\n".__mod__, zip(log_prob.tolist(), words, strict=True))
    columns = zip(log_prob.tolist(), words, log_backoff.tolist(), strict=True)
    return map("%.8g\t%s\t%.8g\n".__mod__, columns)


# Reading


def read_arpa(
    path: Path,
    progress: Progress = lambda lines: None,
    memory: int = 0,
    begin: Begin = lambda total: None,
    backend: Backend = "auto",
) -> ArpaModel:
    r"""Read a model in any order of lines, from a file or a pipe, as it is or packed by gzip, bzip2 or xz.

    Lines before `\data\` are comments. Back-offs may be missing, and may be 0 at the highest order. `<UNK>`
    is `<unk>`, which has probability zero where the file has neither. `begin` is told the number of n-grams,
    `progress` each few that were read. memory: bytes that may be used, 0 for no bound. backend: by NumPy, by
    compiled routines on all cores, or (auto) by these where they are loaded (`native.find`); both find the
    same, to the last bit. Raises ValueError, with the line, for counts that do not match, a context that is
    missing, an n-gram twice, log-probabilities above 0 or not numbers, a section out of order, a truncated
    file, one without `<s>` or `</s>`, and for a model that needs more memory than there is.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(ArpaLines(path))
        routines = _routines(stack, backend)
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
            section, line = read_section(reader, n, size, ids, n == len(sizes), progress, routines)
            sections.append(section)
            if n == 1:
                _check_marks(reader, section)
        if line != "\\end\\":
            raise reader.error(f"expected \\end\\, got {line[:40]!r}")
        try:
            words = [word.decode() for word in ids]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected words in UTF-8, got {shown(error.object)}") from None
        return ArpaModel(_tables(sections, len(ids), reader, routines), words[FIRST_WORD_ID:])


def _check_marks(reader: ArpaLines, unigrams: Section) -> None:
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
        name, _, number = (part.strip() for part in line[len("ngram") :].partition("="))
        if name != str(len(sizes) + 1) or not number.isascii() or not number.isdigit():
            raise reader.error(f"expected ngram {len(sizes) + 1}=COUNT, got {line[:40]!r}")
        sizes.append(int(number))
    if not sizes:
        raise reader.error(f"expected ngram 1=COUNT, got {line[:40]!r}")
    return sizes, line


def _tables(
    sections: list[Section], vocab_size: int, reader: ArpaLines, routines: Routines | None
) -> BackoffTables:
    """The trie of what was read; the sections are taken out of their list."""
    bits = max(1, vocab_size - 1).bit_length()
    orders, keys = [], [np.arange(vocab_size)]
    while sections:
        n, section = len(orders) + 1, sections.pop(0)  # so that each is let go when it is done
        ranks = routines.prefix_ranks(orders, section.ids) if routines and n > 2 else None
        if ranks is None:
            ranks = section.ids[:, 0].astype(np.int64)
            for depth in range(1, n - 1):
                ranks = _place(keys[depth], (ranks << bits) | section.ids[:, depth], section, reader, n)
        key = (ranks << bits) | section.ids[:, -1] if n > 1 else ranks
        order = routines.argsort(key) if routines else np.argsort(key, kind="stable")
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
        if not sections:
            log_backoff = np.zeros(0)
        orders.append(OrderTable(first, word, log_prob, log_backoff))
    return BackoffTables(tuple(orders))


def _filled(values, key, size: int, missing: float) -> Float[np.ndarray, "vocab"]:
    filled = np.full(size, missing)
    filled[key] = values
    return filled


def _place(keys, wanted, section: Section, reader: ArpaLines, n: int) -> Int[np.ndarray, "entry"]:
    place = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    missing = keys[place] != wanted if len(keys) else np.ones(len(wanted), bool)
    if missing.any():
        line = section.line + int(np.flatnonzero(missing)[0])
        raise reader.error(f"the context of this {n}-gram is not in the file", line)
    return place

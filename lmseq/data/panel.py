"""Panels: many series of one kind in one file, each regular in time, of unequal lengths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lmseq.data.series_files import Missing, read_csv, stem
from lmseq.data.series_types import Series
from lmseq.data.tables import Decimal

Form = Literal["auto", "table", "long", "wide"]
Channels = Literal["joint", "independent"]


class Panel(NamedTuple):
    """N series of one number of values D a step, each regular in time, of unequal lengths T_n.

    series: each with a name of its own (its id, or its column), values (T_n, D) float64, times, rows.
    test: what came after each, from a file of its own as M4's second one; the same order and names.
    frequency: pandas' offset alias of the steps, such as h, D, B, W-SUN, MS, QS-OCT, YS-JAN, 15min; empty
    where there are no dates. notes: what was decided in reading it, a line each.
    """

    name: str
    series: tuple[Series, ...]
    test: tuple[Series, ...] = ()
    frequency: str = ""
    notes: tuple[str, ...] = ()


def read_panel(
    path: Path,
    *,
    form: Form = "auto",
    channels: Channels = "joint",
    columns: Sequence[str] = (),
    time_column: str = "",
    id_column: str = "",
    test_path: Path | None = None,
    missing: Missing = "error",
    decimal: Decimal = "auto",
    repair: bool = False,
) -> Panel:
    """The series of a file: a table, the long form, or the wide form of M4 (not yet: tables only)."""
    if form in ("long", "wide") or id_column or test_path or repair:
        raise ValueError("expected --form=table: other forms are not read yet")
    whole = read_csv(path, columns, time_column, missing, decimal)
    series = (whole,) if channels == "joint" else split_columns(whole)
    return Panel(stem(path), series, notes=whole.notes)


def split_columns(whole: Series) -> tuple[Series, ...]:
    """Each of D columns as a series of one value a step, named by its column."""
    return tuple(
        whole._replace(
            name=name,
            columns=(name,),
            values=whole.values[:, [place]],
            filled=None if whole.filled is None else whole.filled[:, [place]],
            notes=(),
        )
        for place, name in enumerate(whole.columns)
    )

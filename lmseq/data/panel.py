"""Many series of one kind (placeholder of the interface: replaced when files of panels are read)."""

from pathlib import Path
from typing import Any, NamedTuple

from lmseq.data.series_files import read_csv
from lmseq.data.series_types import Series


class Panel(NamedTuple):
    """N series of one number of values D a step, each regular in time, of unequal lengths T_n."""

    name: str
    series: tuple[Series, ...]
    test: tuple[Series, ...] = ()
    frequency: str = ""
    notes: tuple[str, ...] = ()


def read_panel(path: Path, *, channels: str = "joint", test_path: Path | None = None, **more: Any) -> Panel:
    """A table; the wide form where a test file is given."""
    import pandas

    if test_path is not None:
        found = []
        for each in (path, test_path):
            table = pandas.read_csv(each)
            found.append(
                tuple(
                    Series(str(row[0]), ("value",), row[1:].astype(float)[~pandas.isna(row[1:])][:, None])
                    for row in table.to_numpy(object)
                )
            )
        return Panel(path.stem, *found)
    series = read_csv(path, **more)
    if channels == "joint":
        return Panel(series.name, (series,), notes=series.notes)
    parts = tuple(
        series._replace(
            name=name,
            columns=(name,),
            values=series.values[:, [d]],
            filled=None if series.filled is None else series.filled[:, [d]],
        )
        for d, name in enumerate(series.columns)
    )
    return Panel(series.name, parts, notes=series.notes)

"""Dates as texts, of any usual form: 2024-01-31, 31.01.2024, 01/31/2024, 31 Jan 2024, Jan 2024, 2024Q1.

Days and months of dates as 01/02/2024 are told apart over a whole column, or not at all.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from lmseq.data.frequencies import regular_steps

FORMS = (
    "such as 12, 2024-01-31, 31.01.2024, 31 Jan 2024, 2024-01, Jan 2024, 2024Q1, 20240131 or 2024-01-31T12:00"
)

_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_Y, _M, _D = "(?P<y>[0-9]{4})", "(?P<m>0?[1-9]|1[0-2])", "(?P<d>0?[1-9]|[12][0-9]|3[01])"
_NAME = (
    "(?P<name>jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?"
    r"|nov(ember)?|dec(ember)?)\.?"
)
_CLOCK = (
    r"([T ](?P<hour>[0-9]{1,2})(:?(?P<minute>[0-9]{2})(:?(?P<second>[0-9]{2}(\.[0-9]+)?))?)?"
    r"( ?(?P<half>[ap]m))?( ?(?P<zone>Z|[+-][0-9]{2}(:?[0-9]{2})?))?)?"
)
_ISO, _UNCLEAR, *_OTHERS = (
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"{_Y}[-/]{_M}([-/]{_D}{_CLOCK})?",
        rf"(?P<a>0?[1-9]|[12][0-9]|3[01])(?P<mark>[-/])(?P<b>0?[1-9]|[12][0-9]|3[01])(?P=mark){_Y}{_CLOCK}",
        rf"{_D}\.{_M}\.{_Y}{_CLOCK}",
        rf"{_Y}\.{_M}\.{_D}{_CLOCK}",
        rf"{_M}[-/]{_Y}",
        rf"{_D}\.?[-/ ]?{_NAME},?[-/ ]?{_Y}{_CLOCK}",
        rf"{_NAME} {_D},? {_Y}{_CLOCK}",
        rf"{_NAME}[-/ ]?{_Y}",
        rf"{_Y}[-/ ]?{_NAME}([-/ ]?{_D})?",
        rf"{_Y}M{_M}",
        rf"{_Y}[-/ ]?Q(?P<q>[1-4])",
        rf"Q(?P<q>[1-4])[-/ ]?{_Y}",
        rf"(?P<q>[1-4])Q[-/ ]?{_Y}",
    )
)
_YEAR = re.compile("[0-9]{4}")


def is_date(cell: str) -> bool:
    """Whether a cell is a date: a year, a month or quarter, perhaps a day, a time of it, and its zone."""
    return _match(cell) is not None


def read_dates(cells: Sequence[str]) -> Shaped[np.ndarray, "time"]:
    """Dates as datetime64[us] in UTC, NaT where a cell is none; quarters and months begin on their first day.

    Raises ValueError where days and months cannot be told apart.
    """
    each = dict.fromkeys(cells)
    matches = [_match(cell) for cell in each]
    unclear = [match for match in matches if match is not None and match.re is _UNCLEAR]
    found = _times(matches, not unclear or _day_first(unclear))
    return found[np.fromiter(map({cell: at for at, cell in enumerate(each)}.__getitem__, cells), int)]


def _match(cell: str) -> re.Match[str] | None:
    if not _YEAR.search(cell):
        return None
    return next((match for form in (_ISO, _UNCLEAR, *_OTHERS) if (match := form.fullmatch(cell))), None)


def _times(matches: Sequence[re.Match[str] | None], day_first: bool) -> Shaped[np.ndarray, "time"]:
    import pandas

    texts = [None if match is None else _iso(match, day_first) for match in matches]
    found = pandas.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    return found.tz_localize(None).to_numpy("datetime64[us]")


def _iso(match: re.Match[str], day_first: bool) -> str | None:
    """The same date as ISO 8601 has it; None for an hour that half a day has not."""
    parts = match.groupdict()
    if match.re is _ISO and not parts["half"]:
        return match[0]
    if match.re is _UNCLEAR:
        parts["d"], parts["m"] = (parts["a"], parts["b"]) if day_first else (parts["b"], parts["a"])
    month = parts.get("m") or 1
    if parts.get("q"):
        month = 3 * int(parts["q"]) - 2
    if parts.get("name"):
        month = _NAMES.index(parts["name"][:3].lower()) + 1
    date = f"{parts['y']}-{int(month):02}-{int(parts.get('d') or 1):02}"
    if not parts.get("hour"):
        return date
    hour = int(parts["hour"])
    if parts["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (parts["half"].lower() == "pm")
    return f"{date}T{hour:02}:{parts['minute'] or '00'}:{parts['second'] or '00'}{parts['zone'] or ''}"


def _day_first(unclear: Sequence[re.Match[str]]) -> bool:
    """Whether dates are days, months, years: by those beyond 12, or as only then they are regular."""
    pairs = [(int(match["a"]), int(match["b"])) for match in unclear]
    late_a, late_b = (next((n for n, pair in enumerate(pairs) if pair[side] > 12), None) for side in (0, 1))
    if late_a is not None and late_b is not None:
        raise ValueError(
            f"{unclear[late_a][0]!r} has the day first, {unclear[late_b][0]!r} the month: write dates as "
            "2024-01-31"
        )
    if late_a is not None or late_b is not None or all(a == b for a, b in pairs):
        return late_b is None
    regular = [
        bool(regular_steps(times)[1].all()) and len(times) > 2
        for times in (np.unique(_times(unclear, day_first)) for day_first in (True, False))
    ]
    if regular[0] == regular[1]:
        at = next(n for n, (a, b) in enumerate(pairs) if a != b)
        readings = [_iso(unclear[at], day_first) for day_first in (True, False)]
        raise ValueError(
            f"{unclear[at][0]!r} may be {readings[0]} or {readings[1]}: write dates as {readings[0]}"
        )
    return regular[0]

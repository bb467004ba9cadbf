"""Steps between times: whether they are regular, which frequency they are of, and the times that come next.

A frequency is an offset alias of pandas: h, 15min, D, B (Monday to Friday), W-SUN, MS, QS-OCT, YS-JAN.
"""

import re

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Times = Shaped[np.ndarray, "time"]
DAY, MONTH = np.timedelta64(1, "D"), np.timedelta64(1, "M")

# Of what has one length: microseconds. An anchor, as SUN of W-SUN, says where weeks end: dates tell that.
_LENGTHS = {"ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "D": 86400 * 10**6}
_LENGTHS |= {"us": 1, "W": 7 * _LENGTHS["D"]}
_MONTHS = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}  # of the calendar
_WEEKDAYS = "MON TUE WED THU FRI SAT SUN".split()
_MONTH_NAMES = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
_WORDS = {"s": "second", "min": "minute", "h": "hour", "D": "day", "B": "business day", "W": "week"}
_WORDS |= {name: {1: "month", 3: "quarter", 12: "year"}[months] for name, months in _MONTHS.items()}


def is_dates(times: Times | None) -> bool:
    """Whether there are times and they are dates, not numbers."""
    return times is not None and np.issubdtype(times.dtype, np.datetime64)


def regular_steps(times: Times) -> tuple[Float[np.ndarray, "steps"], Bool[np.ndarray, "steps"]]:
    """Steps between T times in order, over their median, and whether each is from half to one and a half.

    So are months, quarters and leap years. Of days that all are from Monday to Friday only these are counted,
    where the others are not regular.
    """
    steps = np.diff(times).astype(np.float64)
    regular = _near_median(steps)
    if not regular.all() and is_dates(times):
        days = times.astype("datetime64[D]")
        if (days == times).all() and np.is_busday(days).all():
            steps = np.busday_count(days[:-1], days[1:]).astype(np.float64)
            regular = _near_median(steps)
    return steps / np.median(steps) if steps.size and np.median(steps) else steps, regular


def _near_median(steps: Float[np.ndarray, "steps"]) -> Bool[np.ndarray, "steps"]:
    usual = np.median(steps) if steps.size else 0.0
    return (0.5 * usual <= steps) & (steps <= 1.5 * usual)


def infer_frequency(times: Times | None) -> str:
    """The frequency of dates in order; empty for numbers, a single date, and steps that are of none."""
    if times is None or not is_dates(times) or len(times) < 2:
        return ""
    found = step_frequency(times)
    return found if found and follows(times, found) else ""


def step_frequency(times: Times) -> str:
    """The frequency of most steps of dates in order, between which some may lack."""
    times = times.astype("datetime64[us]")
    sizes, counts = np.unique(np.diff(times).astype(np.int64), return_counts=True)
    usual, days = int(sizes[np.argmax(counts)]), times.astype("datetime64[D]")
    if usual <= 0:
        return ""
    if usual == _LENGTHS["D"] and np.is_busday(days).all() and (sizes == 3 * usual).any():
        return "B"
    months = days.astype("datetime64[M]")
    within = (days - months.astype("datetime64[D]")).astype(np.int64)
    last = ((months + MONTH).astype("datetime64[D]") - DAY - months.astype("datetime64[D]")).astype(np.int64)
    is_end = bool((within == last).all())
    if usual >= 28 * _LENGTHS["D"] and (is_end or (within == np.minimum(last, within.max())).all()):
        apart, often = np.unique(np.diff(months).astype(np.int64), return_counts=True)
        return _of_months(int(apart[np.argmax(often)]), int(months[0].astype(np.int64)) % 12, "SE"[is_end])
    found = _of_length(usual)
    return f"{found}-{_WEEKDAYS[int(days[0].astype(np.int64) + 3) % 7]}" if found.endswith("W") else found


def _of_months(apart: int, month: int, end: str) -> str:
    """So many months apart, from a month of 0 to 11 on: MS, 2ME, QS-OCT, YE-DEC."""
    size = next(size for size in (12, 3, 1) if apart % size == 0)
    # Pandas names quarters by the last month of a year in which one begins, or ends.
    unit = {12: "Y", 3: "Q", 1: "M"}[size]
    anchor = {12: f"-{_MONTH_NAMES[month]}", 3: f"-{_MONTH_NAMES[9 + month % 3]}", 1: ""}[size]
    return f"{apart // size if apart > size else ''}{unit}{end}{anchor}"


def _of_length(step: int) -> str:
    """Of microseconds."""
    base = max((each for each in _LENGTHS if step % _LENGTHS[each] == 0), key=_LENGTHS.__getitem__)
    count = step // _LENGTHS[base]
    return base if count == 1 else f"{count}{base}"


def split_frequency(frequency: str) -> tuple[int, str] | None:
    """How many of which unit a step has, such as (15, min) or (1, W); None for what is not known here."""
    named = re.fullmatch(r"([0-9]*)([A-Za-z]+)(-[A-Z]+)?", frequency)
    if named is None or named[2] not in {*_LENGTHS, *_MONTHS, "B"}:
        return None
    return int(named[1] or 1), named[2]


def describe_frequency(frequency: str) -> str:
    """A frequency for people: `a step is 15 minutes (15min)`."""
    known = split_frequency(frequency)
    if known is None or known[1] not in _WORDS:
        return f"steps are {frequency}"
    count, base = known
    return f"a step is {f'{count} {_WORDS[base]}s' if count > 1 else f'1 {_WORDS[base]}'} ({frequency})"


def follows(times: Times, frequency: str) -> bool:
    """Whether T times are those that the first one and a frequency give."""
    expected = future_times(times[:1], frequency, len(times) - 1, day=_last_day(times))
    return bool((expected == times[1:]).all())


def _last_day(times: Times) -> int:
    """The latest day of a month that dates fall on: 31 of 31 January, 29 February, ..."""
    days = times.astype("datetime64[D]")
    return int((days - days.astype("datetime64[M]")).astype(np.int64).max()) + 1


def future_times(
    times: Times | None, frequency: str, horizon: int, *, day: int = 0
) -> Shaped[np.ndarray, "horizon"]:
    """The times of the `horizon` steps after the last.

    Dates go on by the frequency, as datetime64[us]: business days skip weekends, and months, quarters and
    years go by the calendar, on the day of the month that the dates are on (`day`, if given) or on the last
    one. Where dates have no frequency, and for numbers (float64), the median step is repeated. Where there
    are no times, steps are counted: 1, 2, ... after the end.
    """
    ahead = np.arange(1, horizon + 1)
    if times is None:
        return ahead.astype(np.float64)
    if not is_dates(times):
        return times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1.0) * ahead
    times = times.astype("datetime64[us]")
    known = split_frequency(frequency) if frequency else None
    if known is None:
        usual = np.median(np.diff(times).astype(np.int64)) if len(times) > 1 else _LENGTHS["D"]
        return times[-1] + (usual * ahead).astype("timedelta64[us]")
    count, base = known
    if base in _LENGTHS:
        return times[-1] + (count * _LENGTHS[base] * ahead).astype("timedelta64[us]")
    today = times[-1].astype("datetime64[D]")
    clock = times[-1] - today
    if base == "B":
        return np.busday_offset(today, count * ahead, roll="backward").astype("datetime64[us]") + clock
    months = today.astype("datetime64[M]") + (count * _MONTHS[base] * ahead).astype("timedelta64[M]")
    return _on_day(months, today, day or _last_day(times), base).astype("datetime64[us]") + clock


def _on_day(months: Shaped[np.ndarray, "horizon"], today: np.datetime64, day: int, base: str) -> np.ndarray:
    """The day of each month, or the last one where that is later, or where today is the last of its month."""
    last = ((months + MONTH).astype("datetime64[D]") - DAY) - months.astype("datetime64[D]")
    is_end = base.endswith("E") and today + DAY == (today + DAY).astype("datetime64[M]")
    within: Int[np.ndarray, "horizon"] = last.astype(np.int64)
    return months.astype("datetime64[D]") + (within if is_end else np.minimum(within, day - 1)).astype(
        "timedelta64[D]"
    )

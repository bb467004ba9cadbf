"""What a search draws its settings from: ranges of numbers, and lists of choices.

Bergstra and Bengio (2012) say why settings are drawn, and not laid out in a grid: every trial tries another
value of the one or two settings that matter.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from experiments.ablation.settings import Setting, label, read_value
from experiments.frame.experiment import Experiment
from lmseq.config import knobs

RANGE = re.compile(r"(?P<low>[^,]*?)\.\.(?P<high>[^,:]*)(?::(?P<scale>.*))?")
DIGITS = 4  # significant ones of a number that is drawn: what is shown is what was trained with
NEAR = 0.2  # of a range: the standard deviation of what is drawn around a value
MOST_DRAWS = 1000  # for each trial, until one is drawn that is not there yet


class Range(NamedTuple):
    """Numbers from low to high: all equally likely, or on a log scale their logarithms; whole ones alone."""

    low: float
    high: float
    is_log: bool
    is_whole: bool

    def draw(self, share: float) -> str:
        """The number that lies at a share, in [0, 1], of the range."""
        top = self.high + self.is_whole  # a whole number stands for all up to the next
        if self.is_log:
            value = self.low * (top / self.low) ** share
        else:
            value = self.low + (top - self.low) * share
        if self.is_whole:
            return str(min(math.floor(value), int(self.high)))
        rounded = float(f"{value:.{DIGITS}g}")
        return repr(min(max(rounded, self.low), self.high))

    def share(self, value: float) -> float:
        """Where in the range a number lies: what `draw` gives it for."""
        top = self.high + self.is_whole
        value += 0.5 * self.is_whole  # the middle of what it stands for
        if self.is_log:
            return math.log(value / self.low) / math.log(top / self.low)
        return (value - self.low) / (top - self.low)


class Choices(NamedTuple):
    """Values that are equally likely."""

    values: tuple[str, ...]

    def draw(self, share: float) -> str:
        """The value that lies at a share, in [0, 1), of the list."""
        return self.values[int(share * len(self.values))]


Space = dict[str, Range | Choices]


def read_space(pairs: Mapping[str, str], experiment: Experiment) -> Space:
    """The ranges and lists of a search's settings: `1e-4..1e-1:log`, `0..0.6`, `gru,lstm`.

    Raises ValueError for a range that is empty or upside down, a logarithm of what has none, a range of what
    is no number, and a choice that the setting cannot have.
    """
    kinds = {
        knobs.flag_of(each): each.type
        for section in knobs.sections(experiment.config).values()
        for each in dataclasses.fields(section)
    }
    if not pairs:
        raise ValueError("expected --search='name=LOW..HIGH name=a,b ...', got no setting in it")
    return {name: _read_one(name, text, kinds.get(name, str)) for name, text in pairs.items()}


def _read_one(name: str, text: str, kind: Any) -> Range | Choices:
    if "..." in text:
        raise ValueError(f"expected {name}=LOW..HIGH, with two dots, got {text!r}")
    found = RANGE.fullmatch(text)
    is_number = kind in (int, float)
    bounds = [read_value(found[end]) for end in ("low", "high")] if found else []
    are_numbers = bool(found) and all(type(bound) in (int, float) for bound in bounds)
    if are_numbers and not is_number:
        raise ValueError(f"{name} is no number, and has no range {text!r}: list its values, {name}=a,b")
    if found and is_number:
        if not are_numbers:
            raise ValueError(f"expected {name}=LOW..HIGH, two numbers, got {text!r}")
        return _range(name, text, *bounds, kind is int, found["scale"])
    if is_number and ":" in text:
        raise ValueError(f"expected {name}=LOW..HIGH, {name}=LOW..HIGH:log or {name}=a,b, got {text!r}")
    return _choices(name, text, kind)


def _range(name: str, text: str, low: float, high: float, is_whole: bool, scale: str | None) -> Range:
    if scale not in (None, "log"):
        raise ValueError(f"expected {name}=LOW..HIGH or {name}=LOW..HIGH:log, got {text!r}")
    if is_whole and not all(type(bound) is int for bound in (low, high)):
        raise ValueError(f"{name} is a whole number: expected whole bounds, got {text!r}")
    if not low < high:
        turned = f", such as {name}={high}..{low}" if low > high else f": give it in --fixed, {name}={low}"
        raise ValueError(f"expected {name}=LOW..HIGH with LOW below HIGH{turned}, got {text!r}")
    if scale and low <= 0:
        raise ValueError(f"a range on a log scale begins above 0, got {name}={text}: raise its lower end")
    if not math.isfinite(high / low if scale else high - low):
        raise ValueError(f"the range {name}={text} is wider than a number can be: make it narrower")
    return Range(low, high, scale == "log", is_whole)


def _choices(name: str, text: str, kind: Any) -> Choices:
    values = text.split(",")
    if "" in values:
        raise ValueError(f"an empty value among those of {name}: {text!r}")
    if len({repr(read_value(value)) for value in values}) < len(values):
        raise ValueError(f"a value of {name} stands twice in --search: {text!r}")
    if len(values) == 1:
        raise ValueError(
            f"expected a range or several values of {name}, got {name}={text}: give one value in --fixed"
        )
    for value in values:
        _check_value(name, value, kind)
    return Choices(tuple(values))


def _check_value(name: str, value: str, kind: Any) -> None:
    """ValueError where a flag of that kind cannot have the value."""
    if get_args(kind) and value not in get_args(kind):
        raise ValueError(f"expected {name} to be one of {', '.join(get_args(kind))}, got {value!r}")
    allowed = {int: (int,), float: (int, float), bool: (bool,)}.get(kind)
    if allowed and type(read_value(value)) not in allowed:
        raise ValueError(f"expected {name} to be {knobs.KINDS[kind]}, got {value!r}")


def draw(space: Space, num_trials: int, seed: int) -> list[Setting]:
    """Different settings, the same for the same seed; of more trials, the first are those of fewer.

    Spread evenly over the space: Sobol's sequence, scrambled by the seed (Owen 1998). Raises ValueError where
    the space holds hardly as many.
    """
    found: dict[str, Setting] = {}
    for shares in _spread(len(space), MOST_DRAWS * num_trials, seed):
        setting = {name: each.draw(share) for (name, each), share in zip(space.items(), shares, strict=True)}
        found.setdefault(label(setting), setting)
        if len(found) == num_trials:
            return list(found.values())
    raise ValueError(
        f"expected at most {len(found)} trials, as many as there are different settings to draw, got "
        f"{num_trials}: lower --trials, or widen a range"
    )


def _spread(num_settings: int, most: int, seed: int) -> Iterator[np.ndarray]:
    """Points of the unit cube, at most so many, up to a power of two."""
    from scipy.stats import qmc

    sobol = qmc.Sobol(num_settings, rng=np.random.default_rng(seed))
    while sobol.num_generated < most:
        # As many again: their number in all is a power of two then, which balances them.
        yield from sobol.random_base2(max(6, sobol.num_generated.bit_length() - 1))


def draw_near(
    space: Space,
    center: Setting,
    others: Sequence[Setting],
    pool: Sequence[Setting],
    num: int,
    seed: Sequence[int],
    is_run: Callable[[Setting], bool] = lambda setting: True,
) -> list[Setting]:
    """So many settings around one, different from each other and from others, for which is_run is true.

    Numbers lie about it as a normal law of standard deviation NEAR, of their range, has them; what falls
    beyond an end of the range is that end. Choices are its own. Where that gives too few that are new, the
    rest are taken from a pool.
    """
    rng, taken, found = np.random.default_rng(seed), {label(each) for each in others}, []

    def add(setting: Setting) -> None:
        if label(setting) not in taken:
            taken.add(label(setting))
            if is_run(setting):
                found.append(setting)

    for _ in range(MOST_DRAWS * num):
        setting = dict(center)
        for name, each in space.items():
            if isinstance(each, Range):
                share = each.share(float(center[name])) + NEAR * rng.standard_normal()
                setting[name] = each.draw(min(max(share, 0.0), 1.0))
        add(setting)
        if len(found) == num:
            return found
    for setting in pool:
        if len(found) < num:
            add(setting)
    return found

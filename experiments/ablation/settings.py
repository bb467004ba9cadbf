"""Settings as a command line has them: flag names to the text of their values, as grids and from files."""

import math
from itertools import product
from pathlib import Path
from typing import Any

from lmseq.files import read_json

MOST_CELLS = 100_000

Setting = dict[str, str]  # flag names to the text of their values


def label(setting: Setting) -> str:
    """A setting in a few words: `tau=4 head=normal`."""
    return " ".join(f"{name}={value}" for name, value in setting.items()) or "as it is"


def read_value(text: str) -> bool | int | float | str:
    """A flag's text as the number or truth value that it is; other text as it stands."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def pairs_of(text: str, flag: str) -> list[tuple[str, str]]:
    """name=value parts of a flag's text, in order; ValueError for other parts and for a name twice."""
    pairs = []
    for part in text.split():
        name, equals, value = part.removeprefix("--").partition("=")
        if not equals or not name.isidentifier() or not value:
            raise ValueError(f"expected --{flag}='name=value name=value ...', got {part!r} in it")
        if name in dict(pairs):
            raise ValueError(f"{name} stands twice in --{flag}={text!r}: give all its values in one place")
        pairs.append((name, value))
    return pairs


def read_fixed(text: str) -> Setting:
    """The flags of every cell. Raises ValueError for text that is not name=value parts."""
    return dict(pairs_of(text, "fixed"))


def read_sweep(text: str) -> list[Setting]:
    """All combinations of `a=1,2 b=x,y`, the last name varying fastest.

    Raises ValueError for malformed parts and for values that are empty or stand twice.
    """
    pairs = pairs_of(text, "sweep")
    values = [value.split(",") for _, value in pairs]
    for (name, whole), parts in zip(pairs, values, strict=True):
        if "" in parts:
            raise ValueError(f"an empty value among those of {name}: {whole!r}")
        _refuse_twice([{name: part} for part in parts], "sweep")
    if math.prod(map(len, values)) > MOST_CELLS:
        raise ValueError(f"expected at most {MOST_CELLS:,} settings, got {math.prod(map(len, values)):,}")
    return [dict(zip(dict(pairs), chosen, strict=True)) for chosen in product(*values)]


def read_settings(path: Path) -> list[Setting]:
    """Settings from a JSON file; ValueError unless it is a list of different objects of plain values."""
    listed = read_json(path)
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) and one for one in listed):
        raise ValueError(f"expected {path} to hold a list of objects from flag names to values")
    settings = [{name: _text(name, value, path) for name, value in one.items()} for one in listed]
    _refuse_twice(settings, "settings")
    return settings


def _text(name: str, value: Any, path: Path) -> str:
    if type(value) is bool:
        return str(value).lower()
    if type(value) not in (int, float, str) or value == "":
        raise ValueError(f"expected {name} in {path} to be a number, a text, true or false, got {value!r}")
    return str(value)


def _refuse_twice(settings: list[Setting], flag: str) -> None:
    seen = set()
    for setting in settings:
        typed = {name: read_value(text) for name, text in setting.items()}
        # 1 and 1.0 are the same number; 1 and true, which are equal too, are not the same value.
        key = frozenset((name, value, isinstance(value, bool)) for name, value in typed.items())
        if key in seen:
            raise ValueError(f"{label(setting)} stands twice in --{flag}")
        seen.add(key)

"""What every config is made of: frozen dataclasses of knobs, one flag a field, to and from JSON.

Experiments generate their flags from these fields, so that no knob is written twice; the help text stands
beside the default. A config class is a dataclass of sections, each a dataclass of knobs. The checks refuse
settings that are out of range, contradict each other or would do nothing.
"""

import dataclasses
import difflib
import json
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar, get_args

from lmseq import files

Config = TypeVar("Config")  # a frozen dataclass of sections, each a frozen dataclass of knobs


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}  # of values, in words


def knob(default: Any, meaning: str, *, is_path: bool = False, flag: str = "") -> Any:
    """A dataclass field with its default and the one line that says what it does.

    is_path: it says where something lies, one path or several between commas. A beginning `~` is then the
    user's home, and a run is the same wherever its data lies. flag: its name on a command line, where that is
    not the field's, as a word of Python is.
    """
    return field(default=default, metadata={"help": meaning, "is_path": is_path, "flag": flag})


def sections(kind: type) -> dict[str, Any]:
    """The sections of a config class by name, with defaults; a class of knobs is one section, named ""."""
    if all("help" in each.metadata for each in dataclasses.fields(kind)):
        return {"": kind()}
    return {section.name: section.default_factory() for section in dataclasses.fields(kind)}


def names_of(kind: type) -> list[str]:
    """The knobs of a config class, or of a class of knobs, in their order."""
    return [each.name for section in sections(kind).values() for each in dataclasses.fields(section)]


def meanings(section: Any) -> dict[str, str]:
    """The knobs of a section, and the line that says what each does."""
    return {each.name: each.metadata["help"] for each in dataclasses.fields(section)}


def flag_of(each: dataclasses.Field) -> str:
    """The name of a knob on a command line."""
    return each.metadata.get("flag") or each.name


def from_flat(values: dict[str, Any], kind: type[Config]) -> Config:
    """A config from field names to values; what is missing has its default.

    Raises ValueError for a name that is no field (with the nearest that is) and for values of the
    wrong type or outside their choices.
    """
    defaults, filled = sections(kind), {}
    rest = dict(values)
    for name, default in defaults.items():
        knobs = dataclasses.fields(default)
        chosen = {f.name: _typed(f, rest.pop(f.name)) for f in knobs if f.name in rest}
        filled[name] = dataclasses.replace(default, **chosen)
    if rest:
        unknown = next(iter(rest))
        near = difflib.get_close_matches(unknown, names_of(kind), 1)
        raise ValueError(f"unknown setting {unknown!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    return filled[""] if "" in filled else kind(**filled)


def _typed(knob_field: dataclasses.Field, value: Any) -> Any:
    """The value, if the field can hold it."""
    choices = get_args(knob_field.type)
    if choices and value not in choices:
        raise ValueError(f"expected {knob_field.name} to be one of {', '.join(choices)}, got {value!r}")
    kind = str if choices else knob_field.type
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {knob_field.name} to be {KINDS[kind]}, got {value!r}")
    return value


def to_flat(config: Any) -> dict[str, Any]:
    """Field names to values, over all sections."""
    if "" in sections(type(config)):
        return dataclasses.asdict(config)
    return {k: v for section in dataclasses.asdict(config).values() for k, v in section.items()}


SCRIPT = "script"  # in config.json, beside the fields: the name of the script whose run it is


def to_json(config: Any, script: str = "") -> str:
    """The config as a flat JSON object, one field a line, and the script that the run is of, if given."""
    return files.to_json(({SCRIPT: script} if script else {}) | to_flat(config), indent=1) + "\n"


def from_json(text: str, kind: type[Config], script: str = "") -> Config:
    """Inverse of `to_json`; ValueError for text that is not such an object, or is of another script's run.

    Runs that were begun before scripts were noted are known by the names of their settings alone.
    """
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"config.json is damaged ({error}): restore it, or choose another folder") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected config.json to hold an object, got {type(values).__name__}")
    of = values.pop(SCRIPT, "")
    if script and of and of != script:
        raise ValueError(f"config.json is of a run of {of}, not of {script}")
    known = set(names_of(kind))
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:
        whose = "a later version of lmseq" if script and of else "another script, or a later version of lmseq"
        raise ValueError(
            f"config.json has the setting {unknown!r}, which is not known here: it is of {whose}"
        )
    return from_flat(values, kind)


def script_of(path: Path) -> str:
    """The script whose run a folder holds; nothing where it does not say so."""
    try:
        return str(files.read_json(path / "config.json")[SCRIPT])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def differences(old: Config, new: Config, *, but_paths: bool = False) -> list[str]:
    """`field: old -> new` for each field that is not the same; `but_paths` leaves out where things lie."""
    before, after = to_flat(old), to_flat(new)
    left_out = set()
    if but_paths:
        known = [each for part in sections(type(new)).values() for each in dataclasses.fields(part)]
        left_out = {each.name for each in known if each.metadata["is_path"]}
    return [
        f"{name}: {before[name]!r} -> {after[name]!r}"
        for name in before
        if before[name] != after[name] and name not in left_out
    ]


MOST = 2**31 - 1  # of any number: more fits no index

MOST_UNITS = 2**16  # of layers' widths: products of two sizes beyond overflow XLA's, which then aborts

MOST_DRAWS = 10**6  # of samples, origins and the like that are held at once


def at_least(bound: int, most: int | float = MOST, **fields: int | float) -> None:
    """Raise ValueError for the first field that is not a number from `bound` to `most`."""
    for name, value in fields.items():
        # Not `value < bound`: NaN must be refused too.
        if not bound <= value:
            raise ValueError(f"expected {name} of at least {bound}, got {value}")
        if not value <= most:
            raise ValueError(f"expected {name} of at most {most}, got {value}")


def below_one(**shares: int | float) -> None:
    """Raise ValueError for the first share that is not in [0, 1)."""
    for name, share in shares.items():
        if not 0.0 <= share < 1.0:
            raise ValueError(f"expected {name} in [0, 1), got {share}")


Idle = tuple[Any, str, bool, str]  # a section, a field of it, whether it is read, and by what


def check_idle(*knobs: Idle) -> None:
    """Raise ValueError for the first field that is not at its default and that nothing reads."""
    for section, name, read, reader in knobs:
        if not read and getattr(section, name) != getattr(type(section)(), name):
            raise ValueError(
                f"{name}={getattr(section, name)} does nothing here: it is read by {reader} only"
            )


def pick(section: Any, *names: str) -> dict[str, Any]:
    """Some fields of a section, by name."""
    return {name: getattr(section, name) for name in names}

"""Flags from dataclasses of knobs: one flag a field, on a command line or in the settings of an ablation."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from absl import flags

from experiments.frame.presets import Preset
from lmseq.config import knobs

DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple[str, ...]: flags.DEFINE_multi_string,
}


class Given(NamedTuple):
    """Flags as they were given: the value of each, and the names of those that the command line has."""

    values: dict[str, Any]
    names: frozenset[str]


def names_of(kind: type) -> list[str]:
    """The knobs of a class."""
    return [knob.name for section in knobs.sections(kind).values() for knob in dataclasses.fields(section)]


def define(kind: type, found: flags.FlagValues, left_out: Sequence[str] = ()) -> list[str]:
    """One flag for each knob of a class, with its default, its choices and its meaning; returns the names."""
    for section in knobs.sections(kind).values():
        for knob in dataclasses.fields(section):
            if knob.name in left_out:
                continue
            meaning, default = knob.metadata["help"], getattr(section, knob.name)
            if get_origin(knob.type) is Literal:
                flags.DEFINE_enum(knob.name, default, get_args(knob.type), meaning, flag_values=found)
            else:
                DEFINE[knob.type](knob.name, default, meaning, flag_values=found)
    return [name for name in names_of(kind) if name not in left_out]


def define_presets(presets: Sequence[Preset], found: flags.FlagValues) -> None:
    """The flag --preset, one of some functions by name; their docstrings are its help."""
    lines = [f"{preset.__name__}: {preset.__doc__.splitlines()[0]}" for preset in presets]
    meaning = "sets defaults; explicit flags win." + "".join(f"\n          {line}" for line in lines)
    names = [preset.__name__ for preset in presets]
    flags.DEFINE_enum("preset", "none", names, meaning, flag_values=found)


def preset_named(presets: Sequence[Preset], name: str) -> dict[str, Any]:
    """The settings of a preset."""
    return next(preset() for preset in presets if preset.__name__ == name)


def parse(found: flags.FlagValues, arguments: Sequence[str]) -> Given:
    """Read a command line; ValueError or `flags.Error` for what is no flag, or has no such value."""
    rest = found(["", *arguments])[1:]
    if rest:
        raise ValueError(f"expected flags only, got {rest[0]!r}: write --name=value, see --help")
    names = list(found)
    return Given({n: found[n].value for n in names}, frozenset(n for n in names if found[n].present))


def config_of(kind: type, given: Given, defaults: Mapping[str, Any]) -> Any:
    """A config from flags; `defaults`, such as a preset's, stand where the command line says nothing."""
    chosen = {name: given.values[name] for name in names_of(kind) if name in given.values}
    chosen |= {name: value for name, value in defaults.items() if name not in given.names}
    return knobs.from_flat(chosen, kind)


def help_text(doc: str, found: flags.FlagValues, names: Sequence[str]) -> str:
    """What --help prints: the script's docstring, then each flag with its default and meaning."""
    lines = [doc.strip(), ""]
    for name in names:
        lines.append(f"  --{name}={found[name].default}\n        {found[name].help}")
    return "\n".join(lines)

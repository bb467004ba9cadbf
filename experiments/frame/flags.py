"""Flags from dataclasses of knobs: one flag a field, on a command line or in the settings of an ablation."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args, get_origin

from absl import flags

from experiments.frame.presets import Preset
from lmseq.config import knobs
from lmseq.files import from_home

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


def define(kind: type, found: flags.FlagValues, left_out: Sequence[str] = ()) -> list[str]:
    """One flag for each knob of a class, with its default, its choices and its meaning; returns the names."""
    names = []
    for section in knobs.sections(kind).values():
        for knob in dataclasses.fields(section):
            if knob.name in left_out:
                continue
            meaning, default = knob.metadata["help"], getattr(section, knob.name)
            flag = knobs.flag_of(knob)
            if get_origin(knob.type) is Literal:
                flags.DEFINE_enum(flag, default, get_args(knob.type), meaning, flag_values=found)
            elif knob.metadata["is_path"]:
                define_path(flag, default, meaning, found)
            else:
                DEFINE[knob.type](flag, default, meaning, flag_values=found)
            names.append(flag)
    return names


def define_path(name: str, default: str | None, meaning: str, found: flags.FlagValues) -> None:
    """A flag that says where something lies."""
    flags.DEFINE(_Path(), name, default, meaning, flag_values=found)


class _Path(flags.ArgumentParser):
    """A path, or several between commas; `~` at the beginning of one is a user's home."""

    def parse(self, argument: str) -> str:
        first, *others = argument.split(",")
        return ",".join([from_home(first), *(from_home(p) if p.startswith("~/") else p for p in others)])

    def flag_type(self) -> str:
        return "path"


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
    for before, argument in pairwise(["", *arguments]):
        if not _is_unicode(argument):
            name = (argument if argument.startswith("-") else before).partition("=")[0] or "flags"
            raise ValueError(f"expected {name} in UTF-8, got bytes that are not: {argument!a}")
    rest = found(["", *arguments])[1:]
    if rest:
        raise ValueError(f"expected flags only, got {rest[0]!r}: write --name=value, see --help")
    names = list(found)
    return Given({n: found[n].value for n in names}, frozenset(n for n in names if found[n].present))


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: Python keeps bytes that are not UTF-8 as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def config_of(kind: type, given: Given, defaults: Mapping[str, Any]) -> Any:
    """A config from flags; `defaults`, such as a preset's, stand where the command line says nothing."""
    flag = {
        knob.name: knobs.flag_of(knob)
        for section in knobs.sections(kind).values()
        for knob in dataclasses.fields(section)
    }
    chosen = {name: given.values[of] for name, of in flag.items() if of in given.values}
    chosen |= {name: value for name, value in defaults.items() if flag.get(name, name) not in given.names}
    return knobs.from_flat(chosen, kind)


def help_text(doc: str, found: flags.FlagValues, names: Sequence[str]) -> str:
    """What --help prints: the script's docstring, then each flag with its default and meaning."""
    lines = [doc.strip(), ""]
    for name in names:
        lines.append(f"  --{name}={found[name].default}\n        {found[name].help}")
    return "\n".join(lines)

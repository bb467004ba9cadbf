"""What a run was: its settings, those first that are not the defaults, and its figures."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmseq.config import knobs
from lmseq.files import read_json, to_json
from lmseq.training.metrics import read_records

CLOCK = ("second", "memory")  # in names of figures that another run of the same would not have
SIZES = ("test_points", "points", "num_series", "train_points")  # of series, as a run notes them
MOST_SAMPLES = 8
MOST_CHARACTERS = 600  # of a sample


def run_of(
    name: str,
    script: str,
    config: Any,
    facts: Mapping[str, Any],
    summary: Mapping[str, Any],
    check: Callable[[Any], Any] = lambda config: config,
) -> dict[str, Any]:
    """A run as a page tells of it.

    config: of knobs. facts: what is noted of its data, of which the digest is kept. check: what settles
    settings that follow from others.
    """
    return {
        "name": name,
        "script": script,
        "stamp": stamp_of(summary),
        "text": digest_of(facts),
        "settings": settings_of(config, check),
        "figures": {
            key: value
            for key, value in summary.items()
            if isinstance(value, str | int | float | None) and not _is_of_clock(key)
        },
    }


def settings_of(config: Any, check: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Each setting with its meaning, and its default where that is another; these come first.

    What `check` makes of the default, of the other settings, is as by default.
    """
    found = []
    for name, section in knobs.sections(type(config)).items():
        mine = getattr(config, name) if name else config
        for each, meaning in knobs.meanings(section).items():
            value, default = getattr(mine, each), getattr(section, each)
            row = {"name": each, "value": _plain(value), "meaning": meaning}
            is_default = value == default or _follows(config, name, each, default, check)
            found.append(row if is_default else row | {"default": _plain(default)})
    return sorted(found, key=lambda row: "default" not in row)


def _follows(config: Any, section: str, name: str, default: Any, check: Callable[[Any], Any]) -> bool:
    """Whether a config is what comes of it with one setting at its default."""
    changed = replace(getattr(config, section) if section else config, **{name: default})
    try:
        return check(replace(config, **{section: changed}) if section else changed) == config
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def stamp_of(summary: Mapping[str, Any]) -> str:
    """A digest of all figures that do not depend on the clock: by it a page knows its run again."""
    kept = {name: value for name, value in summary.items() if not _is_of_clock(name)}
    return hashlib.sha256(to_json(kept).encode()).hexdigest()


def _is_of_clock(name: str) -> bool:
    return any(part in name for part in CLOCK)


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """What differs in what two runs were judged on, by what they noted of their data; "" for two alike.

    Alike are runs with the same validation text, or the same values of series with the same test part. The
    digest of several series is of their training parts too.
    """
    sizes = [name for name in SIZES if name in first and name in second and first[name] != second[name]]
    is_same = digest_of(first) == digest_of(second) and not {"points", "test_points"} & set(sizes)
    told = [f"{name} {first[name]} and {second[name]}" for name in sizes]
    return "" if is_same else ", ".join(told) or "SHA-256"


def digest_of(facts: Mapping[str, Any]) -> str:
    """The digest of what a run is judged on: its validation text, or the values of its series."""
    valid = facts.get("valid")
    found = valid.get("sha256") if isinstance(valid, dict) else valid or facts.get("sha256")
    return found if isinstance(found, str) else ""


def check_run(folder: Path) -> None:
    """ValueError for a folder that holds no run."""
    if not folder.is_dir():
        raise ValueError(f"expected the folder of a run at {folder}, there is none: check the path")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no run: it has no config.json")
    if not isinstance(read_json(folder / "config.json"), dict):
        raise ValueError(f"expected {folder / 'config.json'} to hold an object: restore it")


def summary_of(folder: Path) -> dict[str, Any]:
    """The figures of a finished run; ValueError for one that is not."""
    if not (folder / "summary.json").is_file():
        raise ValueError(f"{folder} is no finished run: it has no summary.json; finish it first")
    summary = read_json(folder / "summary.json")
    if not isinstance(summary, dict):
        raise ValueError(f"expected {folder / 'summary.json'} to hold an object: restore it")
    return summary


def facts_of(folder: Path, name: str) -> dict[str, Any]:
    """What a run has noted of its data in a file."""
    facts = read_json(folder / name) if (folder / name).is_file() else {}
    if not isinstance(facts, dict):
        raise ValueError(f"expected {folder / name} to hold an object: restore it")
    return facts


def samples_of(folder: Path) -> list[list[Any]]:
    """Step and text of the latest samples that a run has recorded."""
    found = [
        [record["step"], record["sample"][:MOST_CHARACTERS]]
        for record in read_records(folder / "metrics.jsonl")
        if isinstance(record.get("sample"), str)
    ]
    return found[-MOST_SAMPLES:]

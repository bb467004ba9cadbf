"""The folder of a run: locked, compared with what the run was begun with, finished."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmseq.config import knobs
from lmseq.files import locked, read_json, read_text, write_text


def check_workdir(workdir: Path, config: Any, facts: dict[str, Any], name: str) -> None:
    """ValueError unless the folder is new, empty, or holds this very run: same config, same data."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a file")
    config_path, facts_path = workdir / "config.json", workdir / name
    if config_path.exists():
        began = knobs.from_json(read_text(config_path), type(config))
        differing = knobs.differences(began, config)
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(differing)}): "
                "choose another --workdir, or give it the flags it began with"
            )
        if facts_path.exists() and read_json(facts_path) != facts:
            raise ValueError(
                f"the data of {next(iter(facts.values()))} is not the one that {workdir} was begun with: "
                "choose another --workdir, or restore it"
            )
        if (workdir / "checkpoints").exists() and not (workdir / "checkpoints").is_dir():
            raise ValueError(f"expected a folder at {workdir / 'checkpoints'}, a file is there: move it away")
    elif workdir.exists() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        # Hidden files are the lock and what a kill at the very start left behind.
        raise ValueError(f"{workdir} is not empty and holds no run: choose another --workdir")


@contextmanager
def opened(workdir: Path, config: Any, facts: dict[str, Any], name: str) -> Iterator[str | None]:
    """The folder of a run, locked, with what the run is made of in it; the summary of a finished one.

    Raises ValueError as `check_workdir` does, and when another process is at work there.
    """
    check_workdir(workdir, config, facts, name)  # before anything is created
    with locked(workdir):
        check_workdir(workdir, config, facts, name)  # another process may have come and gone
        summary = finished_summary(workdir)
        if summary is None:
            write_text(workdir / "config.json", knobs.to_json(config))
            write_text(workdir / name, json.dumps(facts, indent=1) + "\n")
        yield summary


def finished_summary(workdir: Path) -> str | None:
    """The summary line of a run that is done; None of one that is not, or whose summary is damaged."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return None


def finish(workdir: Path, summary: dict[str, Any]) -> None:
    """Write summary.json and print it, one line, as the last on stdout."""
    line = json.dumps(summary)
    write_text(workdir / "summary.json", line + "\n")
    print(line, flush=True)

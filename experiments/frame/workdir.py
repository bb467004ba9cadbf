"""The folder of a run: locked, compared with what the run was begun with, finished."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from experiments.frame.console import say
from lmseq.config import knobs
from lmseq.files import locked, read_json, read_text, to_json, write_text

LENGTHS = {"num_train_steps", "num_epochs"}  # settings of a run that --extend changes
PLACES = {"corpus", "series", "path"}  # of facts with a digest: where data was found, and not what it is


class Identity(NamedTuple):
    """What a run is: its script, its config, and facts of its data, which are noted in a file `name`.

    extends: whether the config is that of a run which the folder holds with fewer steps.
    """

    script: str
    config: Any
    facts: dict[str, Any]
    name: str
    extends: bool = False


def check_workdir(workdir: Path, run: Identity) -> bool:
    """ValueError unless the folder is new, empty, or holds this very run: same script, config and data.

    The same data may lie elsewhere than before. Returns whether the run there is to be lengthened first.
    """
    if workdir.is_symlink() and not workdir.exists():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a link to nothing: remove it")
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a file")
    if (workdir / "config.json").exists():
        is_shorter = _check_run(workdir, run)
        if (workdir / "checkpoints").exists() and not (workdir / "checkpoints").is_dir():
            raise ValueError(f"expected a folder at {workdir / 'checkpoints'}, a file is there: move it away")
        return is_shorter
    if workdir.exists() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        # Hidden files are the lock and what a kill at the very start left behind.
        raise ValueError(f"{workdir} is not empty and holds no run: choose another --workdir")
    if run.extends:
        raise ValueError(f"expected a run to extend in {workdir}, there is none: leave --extend out")
    return False


def _began_with(workdir: Path, run: Identity) -> Any:
    """The config in a folder; ValueError where it is not of the script of the run."""
    try:
        return knobs.from_json(read_text(workdir / "config.json"), type(run.config), run.script)
    except ValueError as error:
        raise ValueError(f"{workdir} holds no run that can be gone on with: {error}") from None


def _check_run(workdir: Path, run: Identity) -> bool:
    """ValueError unless a folder holds this run; whether it has fewer steps, and is to be extended."""
    began = _began_with(workdir, run)
    noted = read_json(workdir / run.name) if (workdir / run.name).exists() else None
    what = _without_places(noted)
    is_same = what == _without_places(run.facts)
    same_data = is_same and what != noted  # which a digest says
    differing = knobs.differences(began, run.config, but_paths=same_data)
    is_shorter = False
    if run.extends and differing:
        # How long it is does not matter: what there is of it are the first steps of any longer one.
        differing = [each for each in differing if each.partition(":")[0] not in LENGTHS]
        is_shorter = not differing
    if differing:
        raise ValueError(
            f"{workdir} holds a run of another config ({'; '.join(differing)}): "
            "choose another --workdir, or give it the flags it began with"
        )
    if noted is not None and not is_same and not _agree(noted, run.facts):
        raise ValueError(
            f"the data of {next(iter(run.facts.values()))} is not the one that {workdir} was begun with: "
            "choose another --workdir, or restore it"
        )
    if is_shorter and began.train.num_train_steps >= run.config.train.num_train_steps:
        raise ValueError(
            f"expected --extend above the {began.train.num_train_steps} steps that {workdir} has in all, got "
            f"{run.config.train.num_train_steps}"
        )
    return is_shorter


def told(run: Identity) -> dict[str, str]:
    """What one process tells the others of its run, for `check_same`."""
    return {"config": knobs.to_json(run.config, run.script), "facts": to_json(run.facts)}


def check_same(run: Identity, told: Sequence[dict[str, str]]) -> None:
    """ValueError, naming the process, unless all of them have told of the same run.

    The same data may lie elsewhere for each.
    """
    first = told[0]
    for process, said in enumerate(told):
        same_data = _without_places(json.loads(said["facts"])) == _without_places(json.loads(first["facts"]))
        configs = (knobs.from_json(each["config"], type(run.config), run.script) for each in (first, said))
        differing = knobs.differences(*configs, but_paths=same_data)
        if differing:
            raise ValueError(
                f"process {process} has other flags than process 0 ({'; '.join(differing)}): give all the "
                "same"
            )
        if not same_data:
            raise ValueError(
                f"process {process} has other data than process 0 for {next(iter(run.facts.values()))}: give "
                "all the same"
            )


def _without_places(facts: Any) -> Any:
    """Facts without those that say where data was found, as far as a digest says what it is."""
    match facts:
        case dict():
            parts = [facts, *(each for each in facts.values() if isinstance(each, dict))]
            has_digest = any(name.endswith(("sha256", "digest")) for part in parts for name in part)
            left_out = PLACES if has_digest else set()
            return {name: _without_places(each) for name, each in facts.items() if name not in left_out}
        case list() | tuple():
            return [_without_places(each) for each in facts]
        case _:
            return facts


def _agree(noted: Any, facts: Any) -> bool:
    """Whether facts are as they were noted; there may be more of them than there were in earlier versions."""
    match noted, facts:
        case dict(), dict():
            return all(name in facts and _agree(each, facts[name]) for name, each in noted.items())
        case list(), list() | tuple():
            return len(noted) == len(facts) and all(map(_agree, noted, facts))
        case _:
            return noted == facts


@contextmanager
def opened(workdir: Path, run: Identity, *, again: bool = False) -> Iterator[str | None]:
    """The folder of a run, locked, with what the run is made of in it; the summary of a finished one.

    A finished run is only read, unless it is looked at `again`. A ValueError within, before anything else was
    made, takes the folder's two files away again, so that other settings can be tried in it. Raises
    ValueError as `check_workdir` does, and when another process is at work there.
    """
    is_shorter = check_workdir(workdir, run)  # before anything is created
    summary = finished_summary(workdir)
    if summary is not None and not again and not is_shorter:
        yield summary
        return
    with locked(workdir):
        if check_workdir(workdir, run):  # another process may have come and gone
            _turn_back(workdir, run)
        summary = finished_summary(workdir)
        is_new = not (workdir / "config.json").exists()
        if summary is None:
            write_text(workdir / "config.json", knobs.to_json(run.config, run.script))
            write_text(workdir / run.name, to_json(run.facts, indent=1) + "\n")
        try:
            yield summary
        except ValueError:
            made = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
            if is_new and made == {"config.json", run.name}:
                for name in made:
                    (workdir / name).unlink()
            raise


def _turn_back(workdir: Path, run: Identity) -> None:
    """Make the run of fewer steps an unfinished one; what is written next in config.json makes it longer."""
    from lmseq.training.lengthening import turn_back

    train = _began_with(workdir, run).train
    step = turn_back(workdir, train)
    say(f"{train.num_train_steps} steps become {run.config.train.num_train_steps}, from step {step} on")


def finished_summary(workdir: Path) -> str | None:
    """The summary line of a run that is done; None of one that is not, or whose summary is damaged."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    try:
        return to_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return None


def finish(workdir: Path, summary: dict[str, Any]) -> None:
    """Write summary.json and print it, one line, as the last on stdout."""
    line = to_json(summary)
    write_text(workdir / "summary.json", line + "\n")
    print(line, flush=True)

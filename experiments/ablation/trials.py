"""The trials of a search: checked before any is trained, and kept on disk from rung to rung."""

import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.ablation.design import APART, TOGETHER, Cell, Design
from experiments.ablation.halving import Rung, rounds_of, trials_of_round
from experiments.ablation.settings import Setting, label, pairs_of
from experiments.ablation.space import Range, Space, draw, draw_near, read_space
from experiments.frame.experiment import call_from_texts
from lmseq.config.series import SeriesConfig, has_validation, trains
from lmseq.files import replacing

DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
LENGTHS = ("num_train_steps", "steps_per_dispatch")


class Trials(NamedTuple):
    """A cell for each trial drawn so far, all of one seed, with its checked config; all rounds' rungs."""

    cells: list[Cell]
    configs: list[Any]
    rungs: list[Rung]


def read_trials(design: Design) -> Trials:
    """The trials of a search's first round.

    Raises ValueError for what cannot be searched, before anything is written.
    """
    if design.experiment not in TOGETHER:
        names = " and ".join(each.name for each in TOGETHER)
        raise ValueError(
            f"--search is for {names}, whose trials have a validation loss on the way, not for "
            f"{design.experiment.name}: give --sweep"
        )
    for name in (*design.names, *design.fixed):
        if name in APART:
            raise ValueError(
                f"--{name} is for runs of their own, and the trials of a search share programs: leave it out"
            )
    cells, asked = _cells_of(design, range(len(design.settings))), design.config
    configs = [_config_of(design, cell) for cell in cells]
    for name in LENGTHS:
        found = {getattr(each.train, name) for each in configs}
        if len(found) > 1:
            told = ", ".join(map(str, sorted(found)))
            raise ValueError(f"expected trials of one {name}, got {told}: give it in --fixed")
    train, space = configs[0].train, _space_of(design)
    has_ranges = any(isinstance(each, Range) for each in space.values())
    if asked.rounds not in (0, 1) and not has_ranges:
        raise ValueError(
            f"--rounds draws numbers around the best, and {asked.search!r} has no LOW..HIGH: leave it out"
        )
    rungs = rounds_of(
        asked.trials,
        asked.halving,
        asked.rungs,
        asked.rounds if has_ranges else 1,
        train.num_train_steps,
        train.steps_per_dispatch,
    )
    first = trials_of_round(rungs, 0)
    return Trials(cells[: len(first)], configs[: len(first)], rungs)


def _space_of(design: Design) -> Space:
    return read_space(dict(pairs_of(design.config.search, "search")), design.experiment)


def _cells_of(design: Design, numbers: Iterable[int]) -> list[Cell]:
    return [cell for n in numbers for cell in design.cells_of(n, [design.config.first_seed])]


def draw_round(design: Design, trials: Trials, number: int, best: int) -> tuple[Design, Trials]:
    """The same with the trials of a round, drawn around the best of those before, where it lacks them."""
    mine = trials_of_round(trials.rungs, number)
    if len(trials.cells) > mine.start:
        return design, trials
    known = design.settings[: mine.start]
    space, seed = _space_of(design), design.config.first_seed
    pool = draw(space, design.config.trials, seed)  # where few are left to draw near the best

    def is_run(setting: Setting) -> bool:
        try:
            _config_of(design, Cell("near", setting, design.fixed | setting, seed))
        except ValueError:  # such as an end of a range that some choice cannot have
            return False
        return True

    drawn = draw_near(space, known[best], known, pool, len(mine), [seed, number], is_run)
    design = design._replace(settings=[*known, *drawn, *design.settings[mine.stop :]])
    cells = _cells_of(design, mine)
    configs = [_config_of(design, cell) for cell in cells]
    return design, trials._replace(cells=trials.cells + cells, configs=trials.configs + configs)


def _config_of(design: Design, cell: Cell) -> Any:
    """The checked config of a trial; ValueError for one that is wrong, or cannot share a program."""
    try:
        config = call_from_texts(design.experiment, {**cell.flags, "seed": str(cell.seed)}).config
    except (ValueError, flags.Error) as error:
        raise ValueError(f"a trial, {label(cell.setting)}, is no run: {error}") from None
    if isinstance(config, SeriesConfig):
        if not trains(config):
            raise ValueError(
                f"a trial, {label(cell.setting)}, is fitted at once: there are no steps to halve"
            )
        if not has_validation(config.data):
            raise ValueError(
                "--search chooses by the loss of a validation part: give valid_fraction=0.1 in --fixed"
            )
    elif config.course.num_epochs or config.course.init_from or config.data.random_windows:
        raise ValueError(
            "expected trials without num_epochs, init_from and random_windows: they share programs, and have "
            "num_train_steps; choose another preset"
        )
    if config.train.plateau_patience or config.train.average != "none":
        raise ValueError(
            "expected trials without plateau_patience and average, which follow evaluations on the way: "
            "choose another preset"
        )
    return config


# States of trials that may go on: a file each, named by the trial and its steps


def state_path(folder: Path, trial: int, steps: int) -> Path:
    """Where the state of a trial after so many steps lies."""
    return folder / f"{trial}-{steps}.npz"


def save_state(path: Path, leaves: Iterable[Any]) -> None:
    """Write the leaves of a state, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path, "wb") as file:
        np.savez(file, **{str(number): np.asarray(leaf) for number, leaf in enumerate(leaves)})


def load_state(path: Path, like: Iterable[Any]) -> list[np.ndarray] | None:
    """The leaves of a state, of the shapes and dtypes of `like`; None of one that is missing or damaged."""
    try:
        with np.load(path) as file:
            found = [file[str(number)].view(each.dtype) for number, each in enumerate(like)]
    except DAMAGE:
        return None
    return found if all(x.shape == y.shape for x, y in zip(found, like, strict=True)) else None


def keep_only(folder: Path, needed: set[tuple[int, int]]) -> None:
    """Remove the states of trials that are not needed, given as (trial, steps), and what a kill left."""
    for path in folder.glob("*") if folder.is_dir() else ():
        named = re.fullmatch(r"(\d+)-(\d+)\.npz", path.name)
        if not named or (int(named[1]), int(named[2])) not in needed:
            path.unlink(missing_ok=True)

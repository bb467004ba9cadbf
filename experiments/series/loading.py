"""The series of a run, and how long their parts are."""

from pathlib import Path

from experiments.frame.console import listed, say
from experiments.frame.start import data_folders
from lmseq.config.series import SYNTHETIC, SeriesConfig
from lmseq.data.series import PreparedPanel, load_panel, prepare


def num_points_of(config: SeriesConfig) -> int:
    """The rows of the shortest series of a config; 0 where it is said later what is wrong with it."""
    if config.data.series in SYNTHETIC:
        return config.data.num_points
    try:
        return min(len(each.values) for each in load_panel(config, _folders()).series)
    except (OSError, ValueError):
        return 0


def _folders() -> list[Path]:
    """Where files of series are looked for, beside where they are said to be."""
    return [folder for folder in data_folders() if folder is not None]


def load(config: SeriesConfig) -> PreparedPanel:
    """Load, check, split and standardise what the config names, and say how and how much."""
    prepared = prepare(config, _folders())
    panel, members = prepared.panel, prepared.members
    for note in panel.notes:
        say(f"{panel.name}: {note}")
    if len(panel.series) > len(members):
        say(f"{panel.name}: {len(panel.series) - len(members)} series are left out, as they are too short")
    train, test = (
        sum(parts) for parts in zip(*((m.split.train_end, m.test_points) for m in members), strict=True)
    )
    rest = sum(len(each.values) for each in members) - train - test
    of = listed(members[0].series.columns) if len(members) == 1 else f"{len(members):,} series"
    say(f"{panel.name}: {train:,} / {rest:,} / {test:,} points (train / valid / test) of {of}")
    return prepared

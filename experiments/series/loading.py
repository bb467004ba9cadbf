"""The series of a run, and how long their parts are."""

from experiments.frame.console import listed, say
from experiments.frame.start import data_folders
from lmseq.config.series import SeriesConfig
from lmseq.data.series import PreparedPanel, prepare


def load(config: SeriesConfig) -> PreparedPanel:
    """Load, check, split and standardise what the config names, and say how and how much."""
    prepared = prepare(config, [folder for folder in data_folders() if folder is not None])
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

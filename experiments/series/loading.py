"""The series of a run, and how long its parts are."""

from experiments.frame.console import listed, say
from lmseq.config.series import SYNTHETIC, SeriesConfig
from lmseq.data.series import Prepared, load_series, prepare


def num_points_of(config: SeriesConfig) -> int:
    """The rows of the series that the config names; 0 where it is said later what is wrong with it."""
    if config.data.series in SYNTHETIC:
        return config.data.num_points
    try:
        return len(load_series(config).values)
    except (OSError, ValueError):
        return 0


def load(config: SeriesConfig) -> Prepared:
    """Load, check, split and standardise what the config names, and say how and how much."""
    prepared = prepare(config)
    for note in prepared.series.notes:
        say(f"{prepared.series.name}: {note}")
    num_points, (train_end, test_start) = len(prepared.values), prepared.split
    say(
        f"{prepared.series.name}: {train_end:,} / {test_start - train_end:,} / {num_points - test_start:,} "
        f"points (train / valid / test) of {listed(prepared.series.columns)}"
    )
    return prepared

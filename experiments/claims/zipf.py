"""The frequency of words falls as a power of their rank, that of longer n-grams more slowly.

    python -m experiments.claims.zipf --workdir=runs/zipf
    python -m experiments.claims.zipf --corpus=ptb --workdir=runs/zipf_ptb

Ordered by frequency, the words of a text lie near a line of slope -1 where both axes are logarithmic (Zipf
1949); sequences of two and of three words lie near flatter lines. So most of what is longer was seen once or
never, which is why counts of it need smoothing.

Exponents are fitted by least squares of ln count on ln rank, at up to 60 ranks that are evenly spaced on a
logarithmic scale, from --first_rank to the last n-gram that occurs at least --least_count times. Intervals
are over parts of the text of equal length, each with ranks of its own; the picture has the whole text's fit.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.knobs import knob

ORDERS = (1, 2, 3)
NEAR_ONE = (0.85, 1.15)  # where the exponent of words must lie
LEAST_FIT = 0.95  # R^2 of the fits of the whole text


@dataclass(frozen=True)
class ZipfConfig:
    """The text, and the ranks that are fitted."""

    corpus: str = knob("python_docs", "text, as in train_lm", is_path=True)
    normalize: Literal["none", "letters"] = knob("letters", "letters: lower-case a-z and single spaces only")
    num_parts: int = knob(8, "parts of the text, whose exponents an interval is made of; at least 2")
    first_rank: int = knob(5, "first rank of the fits")
    least_count: int = knob(2, "occurrences of the last n-gram of the fits")


def check(config: ZipfConfig) -> ZipfConfig:
    """ValueError for a setting out of range."""
    knobs.at_least(2, 1000, num_parts=config.num_parts)
    knobs.at_least(1, first_rank=config.first_rank, least_count=config.least_count)
    return config


def read_words(config: ZipfConfig) -> np.ndarray:
    """The words of the text as numbers, in order; of a corpus with parts, those of its training part."""
    from experiments.text.loading import read_raw
    from lmseq.data.tokens import normalize_text

    parts = read_raw(config.corpus).parts
    words = normalize_text(parts.get("all") or parts["train"], config.normalize).split()
    if len(words) < config.num_parts:
        raise ValueError(f"expected as many words as parts, {config.num_parts}, got {len(words)}")
    return np.unique(words, return_inverse=True)[1]


def fitted_ranks(counts: np.ndarray, first_rank: int, least_count: int) -> np.ndarray:
    """The ranks of a fit; ValueError where there are fewer than ten."""
    from experiments.claims.power_law import log_spaced_ranks

    last = int(np.sum(counts >= least_count))
    ranks = log_spaced_ranks(first_rank, last)
    if last < first_rank or len(ranks) < 10:
        raise ValueError(
            f"expected 10 or more ranks from first_rank={first_rank} to the last n-gram that occurs "
            f"{least_count} times, which has rank {last}: give a longer text or fewer parts"
        )
    return ranks


def fits(words: np.ndarray, config: ZipfConfig) -> dict[str, list[float]]:
    """For n = 1, 2, 3: the exponent with its sign turned, the factor, R^2, the last rank of the fit."""
    from experiments.claims.power_law import fit_power_law, frequencies

    found: dict[str, list[float]] = {"exponent": [], "factor": [], "r_squared": [], "last_rank": []}
    for n in ORDERS:
        counts = frequencies(words, n)
        ranks = fitted_ranks(counts, config.first_rank, config.least_count)
        law = fit_power_law(ranks, counts[ranks - 1])
        values = (-law.exponent, law.factor, law.r_squared, int(ranks[-1]))
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return found


def measure(config: ZipfConfig, workdir: Path) -> dict[str, Any]:
    """Exponents by n of the whole text and of each part, the picture, and the verdict."""
    from experiments.claims.verdicts import Check, conclude
    from experiments.frame.intervals import exact, flat, interval
    from experiments.frame.measurements import measured

    words = read_words(config)
    parts = np.array_split(words, config.num_parts)
    units = [{"part": part} for part in range(config.num_parts + 1)]  # 0: the whole

    def fits_of(unit: dict[str, Any]) -> dict[str, Any]:
        return fits(parts[unit["part"] - 1] if unit["part"] else words, config)

    of_whole, *of_parts = measured(workdir, units, fits_of)
    exponents = np.array([record["exponent"] for record in of_parts])
    found = [interval(column) for column in exponents.T]
    summary: dict[str, Any] = {"num_words": words.size, "num_types": int(words.max()) + 1}
    checks = [Check("exponent of words, over parts", found[0], *NEAR_ONE)]
    for n, (shorter, longer) in enumerate(zip(exponents.T, exponents.T[1:], strict=False), start=1):
        what = f"exponent of {n}-grams minus that of {n + 1}-grams, over parts"
        checks.append(Check(what, interval(shorter - longer), low=0.0))
    for place, n in enumerate(ORDERS):
        summary |= flat(f"exponent_{n}", found[place]) | {
            f"exponent_{n}_whole": of_whole["exponent"][place],
            f"r_squared_{n}_whole": of_whole["r_squared"][place],
            f"r_squared_{n}_parts": float(np.mean([record["r_squared"][place] for record in of_parts])),
            f"last_rank_{n}_whole": of_whole["last_rank"][place],
        }
        what = f"R^2 of the fit of {n}-grams, whole text"
        checks.append(Check(what, exact(of_whole["r_squared"][place]), low=LEAST_FIT))
    draw(config, words, of_whole, found, workdir)
    return {**summary, **conclude(checks)}


def draw(
    config: ZipfConfig, words: np.ndarray, of_whole: dict[str, Any], found: list[Any], workdir: Path
) -> None:
    """zipf.png: counts by rank with the fits of the whole text; exponents over parts."""
    from experiments.claims.power_law import frequencies, log_spaced_ranks
    from lmseq import plotting
    from lmseq.plotting import Curve, Panel

    curves = []
    for place, (n, style) in enumerate(zip(ORDERS, ("o", "s", "^"), strict=True)):
        counts = frequencies(words, n)
        shown = log_spaced_ranks(1, len(counts), 90)
        label = f"{n}-grams, exponent {of_whole['exponent'][place]:.2f}"
        curves.append(Curve(label, shown, counts[shown - 1], style=style))
    for place in range(len(ORDERS)):
        ranks = np.array([config.first_rank, of_whole["last_rank"][place]])
        line = of_whole["factor"][place] * ranks ** -of_whole["exponent"][place]
        curves.append(Curve("fits" if not place else "", ranks, line, style="k-"))
    mean, low, high = np.array(found).T
    panels = [
        Panel(
            f"{config.corpus}: count falls as a power of rank",
            "rank of the n-gram by frequency",
            "occurrences",
            curves,
            log="xy",
        ),
        Panel(
            f"longer n-grams fall more slowly: {config.num_parts} parts of the text",
            "n, words in the n-gram",
            "exponent, with 95 % interval",
            [Curve("", range(len(ORDERS)), mean, low, high, "o")],
            {"1, Zipf's law of words": 1.0},
            ticks=[str(n) for n in ORDERS],
        ),
    ]
    plotting.save_figure(plotting.draw_panels(panels), workdir / CLAIM.pictures[0])


def facts(config: ZipfConfig) -> dict[str, Any]:
    """The text."""
    from experiments.text.loading import corpus_facts

    return corpus_facts(config.corpus)


CLAIM = make_claim(
    module="experiments.claims.zipf",
    doc=__doc__,
    sentence=(
        "The frequency of words falls as a power of rank, with an exponent near 1, and that of longer "
        "n-grams with smaller ones."
    ),
    pictures=("zipf.png",),
    config=ZipfConfig,
    quick={},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

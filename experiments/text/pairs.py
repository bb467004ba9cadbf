"""Minimal pairs: does a model give the better of two texts more probability (Marvin and Linzen 2018)?"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.frame.intervals import flat, proportion
from lmseq.data.corpora import read_text


class Pair(NamedTuple):
    """A better text and a worse one, and what kind of pair it is; an empty group is none."""

    better: str
    worse: str
    group: str = ""


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a file of lines `better TAB worse` or `better TAB worse TAB group`; empty lines are left out.

    Raises ValueError, with the number of the line, for other columns, and for two texts that are one.
    """
    found = []
    # Not splitlines, which also cuts at characters that a text may have.
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        columns, where = line.split("\t"), f"line {number} of {path}"
        if len(columns) not in (2, 3):
            raise ValueError(
                f"expected a better and a worse text and, if wanted, a group, with tabs between, in {where}, "
                f"got {len(columns)} column{'s' * (len(columns) > 1)}"
            )
        pair = Pair(*columns)
        if not pair.better or not pair.worse or pair.better == pair.worse:
            raise ValueError(f"expected two different texts of at least one character in {where}")
        if pair.group == "all":
            raise ValueError(f"expected another group than all, which is that of all pairs, in {where}")
        found.append(pair)
    if not found:
        raise ValueError(f"expected pairs of texts in {path}, got empty lines only")
    return found


def judge(
    pairs: Sequence[Pair], log_likelihoods: Callable[[Sequence[str]], Sequence[float]]
) -> dict[str, dict[str, Any]]:
    """Figures of each group, in order of appearance, and of all pairs, under `all`.

    log_likelihoods: of texts, ln P of each in nats. `accuracy` is the share of pairs whose better text has
    the higher one; a tie counts one half. Its interval of 95 % is Wilson's (1927).
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair[:2]))
    of_text = dict(zip(texts, log_likelihoods(texts), strict=True))
    groups: dict[str, list[float]] = {}
    for pair in pairs:
        better, worse = of_text[pair.better], of_text[pair.worse]
        if math.isnan(better) or math.isnan(worse):
            raise ValueError(f"expected log-likelihoods, got no number of {pair.better!r} or {pair.worse!r}")
        right = 0.5 if better == worse else float(better > worse)
        for group in {pair.group or "all", "all"}:
            groups.setdefault(group, []).append(right)
    every = groups.pop("all")
    return {
        group: {
            **flat("accuracy", proportion(sum(right), len(right))),
            "num_pairs": len(right),
            "num_ties": right.count(0.5),
        }
        for group, right in [*groups.items(), ("all", every)]
    }


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """The figures as lines."""
    width = max(map(len, ("group", *found)))
    lines = [f"{'group':<{width}}  {'pairs':>8}  accuracy, 95 %        ties"]
    for group, of in found.items():
        accuracy = "{accuracy:.4f} [{accuracy_low:.4f}, {accuracy_high:.4f}]".format(**of)
        lines.append(f"{group:<{width}}  {of['num_pairs']:>8,}  {accuracy}{of['num_ties']:>6,}")
    return lines

"""Successive halving: at each rung the best of the trials go on, for several times the steps.

Jamieson and Talwalkar (2016), with one of the brackets of Hyperband (Li et al. 2018): trials are compared at
lengths that grow by the factor by which their number falls, so that every rung costs about as much.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

USUAL_RUNGS = 3  # the first at a sixteenth of the steps, where a quarter goes on
USUAL_ROUNDS = 3


class Rung(NamedTuple):
    """How many trials of a round are trained to how many steps, counted from their beginning."""

    trials: int
    steps: int
    round: int = 0


def rounds_of(
    trials: int, halving: int, num_rungs: int, num_rounds: int, num_train_steps: int, dispatch: int
) -> list[Rung]:
    """The rungs of a search, round after round; num_rounds: 0 for USUAL_ROUNDS, or one of few trials.

    The first round has half of the trials, or all where it is the only one; the others share the rest. It has
    the rungs of `rungs_of`; the others begin at the second of these, as what is near the best differs too
    little to be told apart sooner. Of n trials max(1, floor(n / halving^i)) are trained to a round's rung
    i = 0, 1, .... Raises ValueError for what `rungs_of` refuses, and for more rounds than half of the trials
    can be shared by.
    """
    rungs = rungs_of(trials, halving, num_rungs, num_train_steps, dispatch)
    if num_rounds == 0:
        num_rounds = USUAL_ROUNDS if trials >= 4 * halving else 1
    if num_rounds == 1:
        return rungs
    later = trials // (2 * max(1, num_rounds - 1))
    if num_rounds < 0 or later < 2:
        raise ValueError(
            f"expected rounds from 1 to {trials // 4 + 1}, where each has at least two of {trials} trials, "
            f"or 0, got {num_rounds}"
        )
    found = []
    for number in range(num_rounds):
        # Where there are but two, the later rounds have both: at one length nothing would be halved.
        lengths = [rung.steps for rung in rungs[min(number, 1, len(rungs) - 2) :]]
        mine = later if number else trials - later * (num_rounds - 1)
        found += [Rung(max(1, mine // halving**i), steps, number) for i, steps in enumerate(lengths)]
    return found


def ends_round(rungs: Sequence[Rung], number: int) -> bool:
    """Whether a rung is the last of its round."""
    return number + 1 == len(rungs) or rungs[number + 1].round != rungs[number].round


def _sizes(rungs: Sequence[Rung]) -> list[int]:
    """The trials of each round."""
    return [rung.trials for i, rung in enumerate(rungs) if i == 0 or ends_round(rungs, i - 1)]


def num_trials(rungs: Sequence[Rung]) -> int:
    """The trials of all rounds."""
    return sum(_sizes(rungs))


def trials_of_round(rungs: Sequence[Rung], number: int) -> range:
    """The trials of a round, counted through the search."""
    sizes = _sizes(rungs)
    first = sum(sizes[:number])
    return range(first, first + sizes[number])


def lengths_of(rungs: Sequence[Rung]) -> list[int]:
    """The steps that trials are compared at, least first."""
    return sorted({rung.steps for rung in rungs})


def rungs_of(trials: int, halving: int, num_rungs: int, num_train_steps: int, dispatch: int) -> list[Rung]:
    """The rungs of a search, of which the last has num_train_steps.

    Of n trials, floor(n / halving^i) are trained to rung i = 0, 1, ..., of ceil(num_train_steps /
    halving^(rungs - 1)) * halving^i steps. num_rungs: 0 for USUAL_RUNGS, or as many as leave one trial.
    dispatch: steps of a dispatch, at most; the first rung is rounded up to a multiple of `period_of`. Raises
    ValueError for a halving below 2, trials of which none would go on, and more rungs than the trials or the
    steps allow.
    """
    if halving < 2:
        raise ValueError(f"expected halving of at least 2, got {halving}: of so many trials one goes on")
    if trials < halving:
        raise ValueError(
            f"expected trials of at least halving={halving}, got {trials}: of so many trials one goes on"
        )
    most = 1
    while halving**most <= trials:
        most += 1
    if not 0 <= num_rungs <= most or num_rungs == 1:
        raise ValueError(
            f"expected rungs from 2 to {most}, where {trials} trials become one by halving={halving}, or 0, "
            f"got {num_rungs}"
        )
    last = (num_rungs or min(USUAL_RUNGS, most)) - 1
    if num_train_steps < halving**last:
        raise ValueError(
            f"expected num_train_steps of at least {halving**last}, so that {last + 1} rungs differ, got "
            f"{num_train_steps}: lower --rungs or --halving"
        )
    first = math.ceil(num_train_steps / halving**last)
    pieces = math.ceil(first / dispatch)
    first = pieces * math.ceil(first / pieces)
    lengths = [first * halving**number for number in range(last)] + [num_train_steps]
    return [Rung(trials // halving**number, steps) for number, steps in enumerate(lengths)]


def period_of(rungs: Sequence[Rung], dispatch: int) -> int:
    """Steps of a dispatch, at most so many, that divide the lengths of all rungs but each round's last."""
    return rungs[0].steps // math.ceil(rungs[0].steps / dispatch)


def cost(rungs: Sequence[Rung]) -> int:
    """Steps that are trained in all, where every trial goes on from where it was."""
    begins = [0, *(0 if ends_round(rungs, i) else rung.steps for i, rung in enumerate(rungs))]
    return sum(rung.trials * (rung.steps - begin) for rung, begin in zip(rungs, begins, strict=False))


def best(losses: Mapping[int, float | None], count: int) -> list[int]:
    """The trials with the `count` least losses, least first, the earlier of equals; none without a loss."""
    known = [trial for trial, loss in losses.items() if loss is not None and math.isfinite(loss)]
    return sorted(known, key=lambda trial: (losses[trial], trial))[:count]

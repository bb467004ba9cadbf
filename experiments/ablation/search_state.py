"""A search as it is known: its design, the trials drawn so far, and the losses that its ledger holds."""

from pathlib import Path
from typing import Any, NamedTuple

from experiments.ablation.design import Design
from experiments.ablation.halving import best, ends_round, trials_of_round
from experiments.ablation.records import RUNGS, read_rungs
from experiments.ablation.trials import Trials, draw_round

NONE_LEFT = "no trial of the search has a finite validation loss: lower the range of learning_rate"

Record = dict[str, Any]


class Search(NamedTuple):
    """What a search is: its design, its checked trials, its folder, and what is known of it, in order."""

    design: Design
    trials: Trials
    workdir: Path
    records: list[Record]

    def losses(self, number: int) -> dict[int, float | None]:
        """Validation losses at a rung, by trial; None of one that diverged."""
        mine = [record for record in self.records if record["rung"] == number]
        return {
            trial: loss
            for record in mine
            for trial, loss in zip(record["trials"], record["losses"], strict=True)
        }

    def begins_round(self, number: int) -> bool:
        """Whether a rung is the first of its round."""
        return not number or ends_round(self.trials.rungs, number - 1)

    def alive(self, number: int) -> list[int]:
        """The trials of a rung, in order; none where none is left."""
        rung = self.trials.rungs[number]
        if self.begins_round(number):
            return list(trials_of_round(self.trials.rungs, rung.round))
        return sorted(best(self.losses(number - 1), rung.trials))

    def finals(self) -> dict[int, float | None]:
        """The losses of the trials that were trained in full."""
        rungs = self.trials.rungs
        losses = [self.losses(number) for number in range(len(rungs)) if ends_round(rungs, number)]
        return {trial: loss for each in losses for trial, loss in each.items()}

    def best(self) -> int:
        """The best of these. Raises ValueError where there is none."""
        found = best(self.finals(), 1)
        if not found:
            raise ValueError(NONE_LEFT)
        return found[0]

    def is_known_before(self, number: int) -> bool:
        """Whether all losses of the rounds before one are known."""
        before = [i for i, rung in enumerate(self.trials.rungs) if rung.round < number]
        return all(set(self.alive(i)) <= set(self.losses(i)) for i in before)

    def with_round(self, number: int) -> "Search":
        """The same with the trials of a round, where those before are done."""
        if not number:
            return self
        design, trials = draw_round(self.design, self.trials, number, self.best())
        return self._replace(design=design, trials=trials)


def open_search(design: Design, trials: Trials, workdir: Path) -> Search:
    """A search with what its folder knows of it, with the trials of the rounds that have begun."""
    search = Search(design, trials, workdir, [])
    for record in read_rungs(workdir):
        number = record["rung"]
        if number >= len(trials.rungs) or not search.is_known_before(trials.rungs[number].round):
            break  # a line before was lost: what the round began with is to be found anew
        search = search.with_round(trials.rungs[number].round)
        if record["settings"] != [search.design.settings[trial] for trial in record["trials"]]:
            raise ValueError(
                f"{workdir / RUNGS} has other settings than are drawn here, by another version of lmseq or "
                "of its libraries: go on with that one, or choose another workdir"
            )
        search.records.append(record)
    return search

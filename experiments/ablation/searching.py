"""A search: rounds of successive halving, one after the other, what is done kept in a ledger.

A trial is trained on the schedule of all its steps, and stops at a rung. It goes on from its state there, so
that it equals, bit for bit, a training of its settings that never stopped.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax

from experiments.ablation import together
from experiments.ablation.halving import best, ends_round, period_of
from experiments.ablation.records import RUNGS, note, open_ledger
from experiments.ablation.search_state import Record, Search
from experiments.ablation.settings import label
from experiments.ablation.trials import Trials, keep_only, load_state, save_state, state_path
from experiments.frame.console import say
from lmseq.training import ensemble
from lmseq.training.loop import boundaries
from lmseq.training.memory import check_memory, most_members
from lmseq.training.optimizer import optimizer_of
from lmseq.training.state import LoopState, init_training

STATES = "trials"


def run(search: Search, progress: Callable[[Search], None]) -> Search:
    """Train what is missing, rung by rung, noting each program's trials; the search with all its trials.

    progress is called after each rung. Raises ValueError where no trial has a finite loss.
    """
    rungs, done = search.trials.rungs, len(search.records)
    if done:
        say(f"{plural(done, 'program')} of the search done already")
    with open_ledger(search.workdir / RUNGS, search.records) as ledger:
        for number, rung in enumerate(rungs):
            search = search.with_round(rung.round)
            alive = search.alive(number)
            for part in parts_of(search.trials, alive):
                missing = [trial for trial in part if trial not in search.losses(number)]
                for record in train_part(search, number, missing) if missing else ():
                    note(ledger, record)
                    search.records.append(record)
                    _prune(search, number, alive)
            progress(search)
            told = f"{plural(len(alive), 'trial')} to step {rung.steps}{_told(search, number)}"
            say(f"rung {number + 1}/{len(rungs)}: {told}")
    search.best()  # or an error, where none is left
    shutil.rmtree(search.workdir / STATES, ignore_errors=True)
    return search


def plural(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number} {noun}" + "s" * (number != 1)


def _told(search: Search, number: int) -> str:
    """The best of a rung in words."""
    losses = search.losses(number)
    return "".join(f", best {losses[n]:.4f} of {label(search.design.settings[n])}" for n in best(losses, 1))


def parts_of(trials: Trials, alive: Sequence[int]) -> list[list[int]]:
    """Trials in the programs that train them: alike but for numbers, and no more than memory has room for."""
    place = {trials.cells[trial].name: trial for trial in alive}
    configs = [trials.configs[trial] for trial in alive]
    found = []
    for group in together.grouped([trials.cells[trial] for trial in alive], configs):
        mine = [place[cell.name] for cell in group.cells]
        with together.quietly():
            model = together.work_of(together.Group(group.cells[:1], group.configs[:1])).model
        check_memory(model)
        most = max(1, most_members(model))
        found += [mine[first : first + most] for first in range(0, len(mine), most)]
    return found


def cuts_of(trials: Trials, begin: int, stop: int) -> list[tuple[int, int]]:
    """The dispatches from a step to another: the same ones however often a training stops at rungs."""
    return list(boundaries(begin, stop, period_of(trials.rungs, trials.configs[0].train.steps_per_dispatch)))


def train_part(search: Search, number: int, part: list[int]) -> Iterator[Record]:
    """Train some trials to a rung in one program, save the states of those that may go on; the record.

    Where an accelerator's memory does not suffice, the half of them and then the others.
    """
    try:
        yield _train_part(search, number, part)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or len(part) == 1:
            raise
        say(f"{len(part)} trials in one program take more memory than there is: half of them at a time")
        half = len(part) // 2
        yield from train_part(search, number, part[:half])
        yield from train_part(search, number, part[half:])


def _train_part(search: Search, number: int, part: list[int]) -> Record:
    begun, steps = time.monotonic(), search.trials.rungs[number].steps
    configs = [search.trials.configs[trial] for trial in part]
    with together.quietly():
        work = together.work_of(together.Group([search.trials.cells[trial] for trial in part], configs))
    begin = None if search.begins_round(number) else _states_before(search, number, part, work)
    first = search.trials.rungs[number - 1].steps if begin else 0
    diverged: dict[int, int] = {}

    def check(metrics: Any, step: int) -> None:
        for place, at in ensemble.non_finite(metrics, step).items():
            diverged.setdefault(place, at)

    cuts, names = cuts_of(search.trials, first, steps), search.design.names
    states = together.train_together(configs, work, begin, cuts, check, names)
    losses = {}
    for place, (trial, config, state) in enumerate(zip(part, configs, states, strict=True)):
        loss = None if place in diverged else work.valid_loss(config, state.state.params)
        losses[trial] = loss if loss is not None and math.isfinite(loss) else None
    for trial in _may_go_on(search, number, search.losses(number) | losses).intersection(part):
        path = state_path(search.workdir / STATES, trial, steps)
        save_state(path, jax.tree.leaves(states[part.index(trial)]))
    return {
        "rung": number,
        "steps": steps,
        "begin": first,
        "trials": part,
        "settings": [search.design.settings[trial] for trial in part],
        "losses": [losses[trial] for trial in part],
        "diverged": [diverged.get(place) for place in range(len(part))],
        "seconds": time.monotonic() - begun,
    }


def _may_go_on(search: Search, number: int, losses: dict[int, float | None]) -> set[int]:
    """The trials, of those whose loss at a rung is known, that may go on to the next."""
    rungs = search.trials.rungs
    return set() if ends_round(rungs, number) else set(best(losses, rungs[number + 1].trials))


def _states_before(
    search: Search, number: int, part: list[int], work: together.Work
) -> list[LoopState] | None:
    """The states of trials at the rung before; None where one of them is lost."""
    train, batch_size = search.trials.configs[part[0]].train, work.batches.batch_size
    init = partial(
        init_training, model=work.model, optimizer=optimizer_of(work.model, train), batch_size=batch_size
    )
    leaves, structure = jax.tree.flatten(jax.eval_shape(init, jax.random.key(0)))
    steps = search.trials.rungs[number - 1].steps
    found = [load_state(state_path(search.workdir / STATES, trial, steps), leaves) for trial in part]
    if any(each is None for each in found):
        say(f"the states of {len(part)} trials at step {steps} are lost: they are trained anew to there")
        return None
    return [jax.tree.unflatten(structure, each) for each in found]


def _prune(search: Search, number: int, alive: Sequence[int]) -> None:
    """Remove the states that nothing goes on from."""
    losses, rungs = search.losses(number), search.trials.rungs
    needed = {(trial, rungs[number].steps) for trial in _may_go_on(search, number, losses)}
    if not search.begins_round(number):
        needed |= {(trial, rungs[number - 1].steps) for trial in alive if trial not in losses}
    keep_only(search.workdir / STATES, needed)

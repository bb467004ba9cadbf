"""What a search found, and what it spent: a row a trial, a row a rung, a picture of both."""

import math
import statistics
from collections.abc import Sequence

from experiments.ablation import tables
from experiments.ablation.design import Design
from experiments.ablation.halving import cost, lengths_of, num_trials
from experiments.ablation.search_state import Record, Search
from experiments.ablation.settings import read_value
from experiments.ablation.tables import Row, told
from experiments.ablation.trials import Trials
from experiments.frame.intervals import estimate, flat
from lmseq import plotting
from lmseq.plotting import Curve, Panel

SHOWN = 8  # trials in the table that is printed, the best first
STYLES = ("o-", "s-", "^-", "D-", "v-", "P-", "X-", "*-")  # of trials by the rung that they reached


def trial_rows(search: Search) -> list[Row]:
    """A row for each trial that was begun: its setting, how far it got, its loss at each rung there."""
    design, rows = search.design, {}
    for record in search.records:
        known = zip(record["trials"], record["losses"], record["diverged"], strict=True)
        for trial, loss, diverged in known:
            row = rows.setdefault(
                trial, {"trial": trial} | tables.typed(design.settings[trial], design.names)
            )
            row |= {"rung": record["rung"], "steps": record["steps"], "valid_loss": loss}
            row |= {f"valid_loss_at_{record['steps']}": loss, "diverged_at": diverged}
    return [rows[trial] for trial in sorted(rows)]


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The trials that got furthest first, and of these the best."""

    def key(row: Row) -> tuple[int, float, int]:
        loss = row["valid_loss"]
        return -row["steps"], math.inf if loss is None else loss, row["trial"]

    return sorted(rows, key=key)


def spent(records: Sequence[Record]) -> int:
    """Steps that were trained."""
    return sum((record["steps"] - record["begin"]) * len(record["trials"]) for record in records)


def full_cost(trials: Trials) -> int:
    """Steps of all trials in full."""
    return num_trials(trials.rungs) * trials.rungs[-1].steps


def rung_table(trials: Trials, records: Sequence[Record]) -> str:
    """The rungs: how many trials, to which step, their losses, and what that took."""
    body, rounds = [], trials.rungs[-1].round > 0
    for number, rung in enumerate(trials.rungs):
        mine = [record for record in records if record["rung"] == number]
        losses = [loss for record in mine for loss in record["losses"]]
        known = [loss for loss in losses if loss is not None]
        shown = [f"{min(known):.4f}", f"{statistics.median(known):.4f}"] if known else ["-", "-"]
        seconds = sum(record["seconds"] for record in mine)
        line = [
            *[rung.round + 1] * rounds,
            number + 1,
            f"{len(losses)} of {rung.trials}",
            rung.steps,
            *shown,
            len(losses) - len(known),
        ]
        body.append([*map(str, line), f"{spent(mine):,}", f"{seconds:.1f}"])
    head = ["rung", "trials", "to step", "best valid_loss", "median", "diverged", "steps", "seconds"]
    head = ["round"] * rounds + head
    return tables.grid(head, body)


def markdown(search: Search) -> str:
    """The rungs, what was spent, and the best trials."""
    design, trials, records = search.design, search.trials, search.records
    steps, whole = spent(records), full_cost(trials)
    seconds = sum(record["seconds"] for record in records)
    text = rung_table(trials, records) + (
        f"\n{steps:,} of {whole:,} steps of {num_trials(trials.rungs)} full trainings, "
        f"{100 * steps / whole:.1f} %, in {seconds:.1f} s\n\n"
    )
    lengths = lengths_of(trials.rungs)
    body = []
    for row in ranked(trial_rows(search))[:SHOWN]:
        losses = [row.get(f"valid_loss_at_{length}") for length in lengths]
        shown = ["" if loss is None else f"{loss:.4f}" for loss in losses]
        body.append([str(row["trial"]), *(told(row[name]) for name in design.names), *shown])
    return text + tables.grid(["trial", *design.names, *(f"at {length}" for length in lengths)], body)


def write(search: Search) -> None:
    """trials.csv, table.md and search.png, each whole or not at all."""
    design, trials, workdir, rows = search.design, search.trials, search.workdir, trial_rows(search)
    tables.write_csv(workdir / "trials.csv", ranked(rows))
    tables.write_text(workdir / "table.md", markdown(search))
    panels = [rungs_panel(trials, rows), *(setting_panel(design, trials, rows, n) for n in design.names)]
    if any(len(curve.x) for panel in panels for curve in panel.curves):
        plotting.save_figure(plotting.draw_panels(panels), workdir / "search.png")


def _by_rung(trials: Trials, rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """The trials that a rung was the last of, with a name and a style; those without a loss left out."""
    found = []
    for number, steps in enumerate(lengths_of(trials.rungs)):
        mine = [row for row in rows if row["steps"] == steps and row["valid_loss"] is not None]
        name = f"ended at step {steps} ({len(mine)})"
        if mine:
            found.append((name, STYLES[number % len(STYLES)], mine))
    return found


def rungs_panel(trials: Trials, rows: Sequence[Row]) -> Panel:
    """Loss against steps: a line a trial, broken by nan from the next."""
    curves = []
    for name, style, mine in _by_rung(trials, rows):
        x, y = [], []
        for row in mine:
            for steps in lengths_of(trials.rungs):
                if f"valid_loss_at_{steps}" in row:
                    x.append(float(steps))
                    y.append(row[f"valid_loss_at_{steps}"])
            x.append(math.nan)
            y.append(math.nan)
        curves.append(Curve(name, x, y, style=style))
    places = [float(steps) for steps in lengths_of(trials.rungs)]
    return Panel("trials, rung by rung", "step", "valid_loss", curves, log="xy", places=places)


def setting_panel(design: Design, trials: Trials, rows: Sequence[Row], name: str) -> Panel:
    """The last loss of each trial against a setting of it."""
    numeric = all(tables.is_number(row[name]) for row in rows)
    values = [read_value(setting[name]) for setting in design.settings]
    places = sorted(set(map(str, values))) if not numeric else []
    curves = []
    for label, style, mine in _by_rung(trials, rows):
        x = [row[name] if numeric else places.index(str(row[name])) for row in mine]
        curves.append(Curve(label, x, [row["valid_loss"] for row in mine], style=style[0]))
    is_log = f"{name}=" in design.config.search and _is_log(design, name)
    log = "xy" if numeric and is_log else "y"
    return Panel(f"loss at the last rung by {name}", name, "valid_loss", curves, log=log, ticks=places)


def _is_log(design: Design, name: str) -> bool:
    part = next(part for part in design.config.search.split() if part.partition("=")[0].strip("-") == name)
    return part.endswith(":log")


def summary(search: Search, found: tables.Found, metrics: Sequence[str], seconds: float) -> Row:
    """A search in a flat object, beside what the best setting's fresh seeds gave (`tables.summary`).

    seconds: of the fresh trainings.
    """
    trials, records = search.trials, search.records
    winner, steps, whole = search.best(), spent(records), full_cost(trials)
    searching = sum(record["seconds"] for record in records)
    with_fresh = steps + len(found.rows) * trials.rungs[-1].steps
    values = {}
    for name in (name for name in metrics if name in tables.numeric_columns(found)):
        values |= flat(name, estimate(tables.samples(found.rows, name)))
    return {
        "num_trials": num_trials(trials.rungs),
        "num_diverged": sum(loss is None for record in records for loss in record["losses"]),
        "best_trial": winner,
        "best_trial_loss": search.finals()[winner],
        **values,
        "steps": steps,
        "share_of_steps": steps / whole,
        "steps_with_seeds": with_fresh,
        "share_with_seeds": with_fresh / whole,
        "search_seconds": searching,
        "seconds": searching + seconds,
    }


def plan(design: Design, trials: Trials) -> str:
    """What a search would do, as text."""
    whole, fresh = full_cost(trials), len(design.seeds) * trials.rungs[-1].steps
    steps = cost(trials.rungs)
    body = [
        list(map(str, (rung.round + 1, number + 1, rung.trials, rung.steps)))
        for number, rung in enumerate(trials.rungs)
    ]
    return tables.grid(["round", "rung", "trials", "to step"], body) + (
        f"{num_trials(trials.rungs)} trials of {design.experiment.name}: {steps:,} of {whole:,} steps, "
        f"{100 * steps / whole:.1f} %; with {len(design.seeds)} fresh seeds of the best "
        f"{steps + fresh:,}, {100 * (steps + fresh) / whole:.1f} %"
    )

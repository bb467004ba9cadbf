"""The stages of an ablation: cells, or a search and the cells of its best; tables, picture, summary."""

from pathlib import Path
from typing import Any

from experiments.ablation import found_trials, running, sweep_page, tables
from experiments.ablation.curves import panels_of
from experiments.ablation.design import Design, find_setting
from experiments.ablation.search_state import open_search
from experiments.ablation.trials import read_trials
from experiments.frame.console import say
from experiments.frame.experiment import Call
from lmseq import plotting
from lmseq.files import write_text

FRESH = "\nThe best, trained anew from seeds that no trial had:\n\n"


def run(workdir: Path, design: Design, call: Call) -> dict[str, Any]:
    """Run what is missing, with the tables written after every group; the summary."""
    options = call.options
    if design.config.search:
        return run_search(workdir, design, call)
    reference = find_setting(design, options.compare) if options.compare else None

    def write(done: dict[str, Any]) -> tuple[tables.Found, list[str], str]:
        found = tables.found_of(design, done)
        metrics = tables.choose_metrics(found, options.metrics)
        return found, metrics, tables.write_all(workdir, found, metrics, reference)

    done = running.run_cells(
        design, workdir, write, retry_failed=options.retry_failed, keep_programs=call.keep_programs
    )
    found, metrics, text = write(done)
    panels = panels_of(found.rows, found.names, metrics)
    if panels:
        plotting.save_figure(plotting.draw_panels(panels), workdir / "ablation.png")
    say(text.rstrip())
    seconds = sum(record["seconds"] for record in done.values())
    summary = tables.summary(found, metrics, options.best) | {"seconds": seconds}
    sweep_page.write(workdir, design, found, metrics, summary)
    return summary


def run_search(workdir: Path, design: Design, call: Call) -> dict[str, Any]:
    """Run what is missing of a search, then its best setting with fresh seeds; the summary.

    Tables and picture are written after every rung.
    """
    trials = read_trials(design)
    running.prepare_programs(call.keep_programs)
    from experiments.ablation import searching

    search = searching.run(open_search(design, trials, workdir), found_trials.write)
    told = found_trials.markdown(search)
    fresh = search.design._replace(settings=[search.design.settings[search.best()]])

    def write_fresh(done: dict[str, Any]) -> tuple[tables.Found, list[str], str]:
        found = tables.found_of(fresh, done)
        metrics = tables.choose_metrics(found, call.options.metrics)
        metrics += ["valid_loss"] * ("valid_loss" in tables.columns(found) and "valid_loss" not in metrics)
        text = told + FRESH + tables.write_all(workdir, found, metrics, None)
        write_text(workdir / "table.md", text)
        return found, metrics, text

    done = running.run_cells(
        fresh,
        workdir,
        write_fresh,
        retry_failed=call.options.retry_failed,
        keep_programs=call.keep_programs,
    )
    found, metrics, text = write_fresh(done)
    say(text.rstrip())
    seconds = sum(record["seconds"] for record in done.values())
    summary = tables.summary(found, metrics, "least")
    summary |= found_trials.summary(search, found, metrics, seconds)
    sweep_page.write_search(search, found, summary)
    return summary

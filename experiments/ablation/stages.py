"""The stages of an ablation: cells, tables, picture, summary."""

from pathlib import Path
from typing import Any

from experiments.ablation import running, sweep_page, tables
from experiments.ablation.curves import panels_of
from experiments.ablation.design import Design, find_setting
from experiments.frame.console import say
from experiments.frame.experiment import Call
from lmseq import plotting


def run(workdir: Path, design: Design, call: Call) -> dict[str, Any]:
    """Run what is missing, with the tables written after every group; the summary."""
    options = call.options
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

"""The page of an ablation: its table, to be sorted, with intervals drawn, and its curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.ablation import found_trials, records, tables
from experiments.ablation.curves import panels_of
from experiments.ablation.design import Design, SweepConfig, read_design
from experiments.ablation.halving import lengths_of
from experiments.ablation.search_state import Search, open_search
from experiments.ablation.tables import Found
from experiments.ablation.trials import read_trials
from experiments.web import document, runs
from experiments.web.charts import chart_of
from lmseq.config import knobs
from lmseq.files import read_text
from lmseq.plotting import Panel


def write(
    workdir: Path, design: Design, found: Found, metrics: Sequence[str], summary: dict[str, Any]
) -> None:
    """Write page.html into the folder of an ablation."""
    panels = panels_of(found.rows, found.names, metrics)
    document.write_page(
        workdir / document.PAGE, data_of(workdir.resolve().name, design, found, metrics, panels, summary)
    )


def data_of(
    name: str,
    design: Design,
    found: Found,
    metrics: Sequence[str],
    panels: Sequence[Panel],
    summary: dict[str, Any],
) -> dict[str, Any]:
    """The data of the page: a row a setting, with the mean and the interval of each metric over its seeds."""
    numeric = tables.numeric_columns(found)
    shown = [metric for metric in metrics if metric in numeric]
    columns = [{"name": each, "key": each} for each in found.names]
    columns.append({"name": "seeds", "key": "num_seeds", "isNumber": True})
    columns += [
        {"name": each, "key": each, "isNumber": True, "interval": [f"{each}_low", f"{each}_high"]}
        for each in shown
    ]
    columns.append({"name": "failed", "key": "num_failed", "isNumber": True})
    kept = {key for column in columns for key in (column["key"], *column.get("interval", ()))}
    rows = [{key: value for key, value in row.items() if key in kept} for row in tables.summarise(found)]
    for row in rows:
        row["num_failed"] = row["num_failed"] or None
    note = "Means over seeds with 95 % intervals by Student's t. A click on a head sorts."
    return {
        "kind": "settings",
        "title": f"{design.config.experiment}: {' by '.join(found.names)}",
        "runs": [runs.run_of(name, "ablate", design.config, {}, summary)],
        "columns": columns,
        "table": rows,
        "note": note,
        "charts": {panel.ylabel: chart_of(panel) for panel in panels},
    }


def write_search(search: Search, found: Found, summary: dict[str, Any]) -> None:
    """Write page.html into the folder of a search; found: the fresh seeds of its best trial."""
    document.write_page(search.workdir / document.PAGE, data_of_search(search, found, summary))


def data_of_search(search: Search, found: Found, summary: dict[str, Any]) -> dict[str, Any]:
    """The data of the page: a row a trial, its loss at each rung, and of the best from fresh seeds."""
    design, trials, name = search.design, search.trials, search.workdir.resolve().name
    fresh, metric = f"fresh {'seed' if len(found.rows) == 1 else 'seeds'}", "valid_loss"
    rows = found_trials.ranked(found_trials.trial_rows(search))
    panels = [found_trials.rungs_panel(trials, rows)]
    of_best = {
        key: summary.get(f"{metric}{key.removeprefix(fresh)}")
        for key in (fresh, f"{fresh}_low", f"{fresh}_high")
    }
    rows = [row | (of_best if row["trial"] == summary["best_trial"] else {}) for row in rows]
    losses = [f"{metric}_at_{steps}" for steps in lengths_of(trials.rungs)]
    columns = [{"name": "trial", "key": "trial", "isNumber": True}]
    columns += [{"name": each, "key": each} for each in design.names]
    columns += [{"name": each, "key": each, "isNumber": True} for each in losses]
    columns.append(
        {"name": fresh, "key": fresh, "isNumber": True, "interval": [f"{fresh}_low", f"{fresh}_high"]}
    )
    kept = ["trial", *design.names, *losses, *of_best]
    return {
        "kind": "settings",
        "title": f"{design.config.experiment}: {' by '.join(design.names)}",
        "runs": [runs.run_of(name, "ablate", design.config, {}, summary)],
        "columns": columns,
        "table": [{key: row.get(key) for key in kept} for row in rows],
        "note": "Validation losses of one seed at each rung, and of the best trial from fresh seeds, with "
        "a 95 % interval by Student's t. A click on a head sorts.",
        "charts": {panel.ylabel: chart_of(panel) for panel in panels},
    }


def data_of_folder(folder: Path) -> dict[str, Any]:
    """The same of a finished ablation or search, from its records."""
    summary = runs.summary_of(folder)
    config = knobs.from_json(read_text(folder / "config.json"), SweepConfig, "ablate")
    design = read_design(config)
    found = tables.found_of(design, records.read_ledger(folder))
    if config.search:
        return data_of_search(open_search(design, read_trials(design), folder), found, summary)
    metrics = tables.choose_metrics(found, "")
    panels = panels_of(found.rows, found.names, metrics)
    return data_of(folder.resolve().name, design, found, metrics, panels, summary)

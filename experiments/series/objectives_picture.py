"""The picture of the objectives: records of the trainings in, a panel out."""

from typing import Any

import numpy as np

from lmseq.plotting import AHEAD, Curve, Panel, powers_of_two


def by_objective(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """RMSE by seed and horizon (S, K) of each objective, in the records' order; NaN where one has none."""
    found: dict[str, list] = {}
    for record in records:
        found.setdefault(record["objective"], []).append(record["rmse"])
    return {objective: np.array(rows, np.float64) for objective, rows in found.items()}


def panel(records: list[dict[str, Any]], title: str) -> Panel:
    """RMSE(k) by training objective: the mean over seeds, and a band from the least to the largest."""
    curves = []
    for name, rmse in by_objective(records).items():
        k = np.arange(1, rmse.shape[1] + 1)
        curves.append(Curve(name.replace("_", " "), k, rmse.mean(axis=0), rmse.min(axis=0), rmse.max(axis=0)))
    curves[-1] = curves[-1]._replace(band="least to largest of the seeds")
    return Panel(title, AHEAD, "RMSE, units of the series", curves, log="x", places=powers_of_two(k.size))

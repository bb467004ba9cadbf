"""How a model of a series is judged: the density of what came, and the loss of the validation part."""

from typing import Any

import numpy as np

from lmseq import scoring
from lmseq.contract import Model
from lmseq.data.series import Prepared, PreparedPanel
from lmseq.panels import Origins, panel_log_probs, read_from
from lmseq.types import Params


def log_density(prepared: Prepared, model: Model, params: Params, start: int, stop: int) -> float | None:
    """Mean log-density in nats a time step of points start ... stop - 1, in the units of the series.

    Steps at which a value was missing are left out; None where no step is left.
    """
    known = ~np.isnan(prepared.series.observed()[start:stop]).any(axis=1)
    if not known.any():
        return None
    log_probs = scoring.score_stream(model, params, prepared.inputs[:stop])[start:][known]
    return float(log_probs.mean(dtype=np.float64)) - float(np.log(prepared.scaler.scale).sum())


def evaluate(panel: PreparedPanel, model: Model, horizon: int, params: Params, step: int) -> dict[str, Any]:
    """Loss of the validation part, of standardised values; None where there is no such part.

    It is that of the `horizon` values that the model predicts at once, from every origin of the validation
    parts that has as many after it: what the training minimises. Where the longest part is shorter, it is of
    as many values as that has.
    """
    if any(each.split.train_end == each.split.test_start for each in panel.members):
        return {"valid_loss": None}
    if len(panel.members) > 1 or horizon > 1:
        return {"valid_loss": _loss_ahead(panel, model, horizon, params)}
    first, last = panel.only.split
    log_probs = scoring.score_stream(model, params, panel.only.inputs[:last])[first:]
    return {"valid_loss": -float(log_probs.mean(dtype=np.float64))}


def _loss_ahead(panel: PreparedPanel, model: Model, horizon: int, params: Params) -> float:
    """Mean over series of means over origins and steps ahead, nats."""
    reach = min(horizon, max(each.split.test_start - each.split.train_end for each in panel.members))
    origins = []
    for member in panel.members:
        first, last = member.split
        origins.append(Origins(first, max(0, last - reach - first + 1)))
    found = panel_log_probs(model, params, *read_from(panel, origins, reach), horizon=reach)
    return -float(np.mean([each.mean(dtype=np.float64) for each in found if each.size]))

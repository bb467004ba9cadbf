"""How a model of a series is judged: the density of what came, and the loss of the validation part."""

from typing import Any

import numpy as np

from lmseq import scoring
from lmseq.contract import Model
from lmseq.data.series import Prepared, PreparedPanel
from lmseq.types import Params


def log_density(prepared: Prepared, model: Model, params: Params, start: int, stop: int) -> float | None:
    """Mean log-density in nats a time step of points start ... stop - 1, in the units of the series.

    Steps at which a value was missing are left out; None where no step is left.
    """
    known = ~np.isnan(prepared.series.observed()[start:stop]).any(axis=1)
    if not known.any():
        return None
    log_probs = scoring.score_stream(model, params, prepared.values[:stop])[start:][known]
    return float(log_probs.mean(dtype=np.float64)) - float(np.log(prepared.scaler.scale).sum())


def evaluate(panel: PreparedPanel, model: Model, params: Params, step: int) -> dict[str, Any]:
    """Loss of the validation part, of standardised values; None where there is no such part."""
    first, last = panel.only.split
    if first == last:
        return {"valid_loss": None}
    log_probs = scoring.score_stream(model, params, panel.only.values[:last])[first:]
    return {"valid_loss": -float(log_probs.mean(dtype=np.float64))}

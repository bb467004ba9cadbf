"""Error curves of models that are trained with each remedy against the accumulation of errors."""

import dataclasses
from typing import Any, get_args

import numpy as np

from experiments.series.forecasts import longest_horizon
from experiments.series.prepared import Prepared, model_of
from lmseq import errors, rollout
from lmseq.data.partition import sliding
from lmseq.config.series import ObjectiveConfig, SeriesConfig
from lmseq.training.fit import fit
from lmseq.training.job import Batches
from lmseq.training.objectives import make_objective, segment_length

OBJECTIVES = get_args(ObjectiveConfig.__dataclass_fields__["objective"].type)


class ErrorCurves:
    """The error curve of one objective and seed; keeps what it compiled for the seeds that follow."""

    def __init__(self, config: SeriesConfig, prepared: Prepared) -> None:
        self._config, self._prepared, self._set_up_for = config, prepared, None

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        """RMSE(k) over all origins of the test part, in the units of the series."""
        if self._set_up_for != unit["objective"]:
            self._set_up_for = unit["objective"]
            self._set_up(unit["objective"])
        prepared, start = self._prepared, self._prepared.split.test_start
        train = dataclasses.replace(self._config.train, seed=unit["seed"])
        params, _ = fit(self._model, prepared.train, train, batches=self._batches, objective=self._objective)
        horizon = longest_horizon(self._config, prepared)
        points = rollout.k_step_points(
            self._model, params, prepared.values, max_horizon=horizon, first_origin=start
        )
        targets = rollout.k_step_targets(prepared.series.observed(), max_horizon=horizon, first_origin=start)
        curve = errors.error_curve(prepared.scaler.undo(np.asarray(points)), targets)
        return {"rmse": curve.rmse.tolist()}

    def _set_up(self, objective: str) -> None:
        chosen = dataclasses.replace(self._config.objective, objective=objective)
        config = dataclasses.replace(self._config, objective=chosen)
        self._model, self._objective = model_of(config, self._prepared), make_objective(config)
        self._batches = Batches(config.data.batch_size, segment_length(config), sliding)

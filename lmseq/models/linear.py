"""Linear autoregression: its parameters in closed form, and its forecasts as products in NumPy.

The model is a `MarkovSeriesModel` without hidden layers, on windows that may be normalised.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lmseq.data.series import Prepared
from lmseq.data.windows import sliding_windows
from lmseq.models.direct_map import (
    PENALTIES,
    Map,
    Moments,
    choose_penalty,
    decompose,
    flat_inputs,
    mean_square_error,
    moments,
    pieces,
    solve,
    solve_by_steps,
)
from lmseq.models.heads import SMALLEST_SCALE, HeadKind
from lmseq.models.normalised import DirectNormalised, Normalisation, Normalised, statistics
from lmseq.types import Covariates, Params


def fit_least_squares(
    values: Float[np.ndarray, "time feature"], tau: int, head: HeadKind, horizon: int = 1
) -> Params:
    """The weights of least squared error of x_{t+1} = b + sum_j W_j x_{t-j}, j = 0 ... tau - 1.

    values: (T, D). Float64 inside, by a singular value decomposition, so that collinear lags get the
    smallest weights that do. With a horizon of K the next K values have weights of their own (direct
    forecasts). The normal head gets the residuals' standard deviation at every input, which is the
    maximum-likelihood scale. Raises ValueError where there is no window, or fewer windows than weights.
    """
    windows = sliding_windows(np.asarray(values, np.float64), tau, horizon)
    count, _, num_features = windows.features.shape
    design = np.concatenate([windows.features.reshape(count, -1), np.ones((count, 1))], axis=1)
    if count < design.shape[1]:
        raise ValueError(
            f"expected at least {design.shape[1]} windows to fit as many weights, got {count}: give a longer "
            "series or a smaller tau"
        )
    labels = windows.labels.reshape(count, horizon * num_features)
    weights = np.linalg.lstsq(design, labels)[0]
    scale = np.sqrt(np.mean((labels - design @ weights) ** 2, axis=0)) if head == "normal" else None
    return linear_params(weights[:-1], weights[-1], scale)


def fit_map(
    members: Sequence[Prepared],
    tau: int,
    horizon: int,
    kind: Normalisation,
    ridge: float = 0.0,
    *,
    refit: bool = False,
    head: HeadKind = "point",
) -> Params:
    """The linear map from tau values to the next K, fitted to all windows of all training parts.

    ridge: the penalty of `direct_map.solve`, or -1: the one of least squared error on the windows whose
    targets lie in the validation parts, whose inputs may lie before. refit: then fit with it to the windows
    of training and validation parts. The normal head gets the residuals' standard deviation. Raises
    ValueError where there is no window to fit to or to choose on.
    """
    covariates = members[0].covariates
    windows = (tau, horizon, kind, covariates)
    found = moments(pieces((each.train for each in members), *windows))
    if ridge == -1:
        ridge = _chosen_ridge(found, members, windows)
        if refit:
            found = moments(pieces((each.inputs[: each.split.test_start] for each in members), *windows))
    solved = _solved(found, ridge, windows)
    scale = np.sqrt(mean_square_error(found, solved)) if head == "normal" else None
    num_inputs = len(solved.weights) - (horizon - 1) * covariates.known
    known = None
    if covariates.known:  # that of the first step is known to the window
        known = np.zeros((horizon * covariates.known, solved.weights.shape[1]))
        known[covariates.known :] = solved.weights[num_inputs:]
    return linear_params(solved.weights[:num_inputs], solved.bias, scale, known)


Windows = tuple[int, int, Normalisation, Covariates]  # tau, the horizon, and what the inputs are


def chosen_ridge(members: Sequence[Prepared], tau: int, horizon: int, kind: Normalisation) -> float:
    """The penalty that `fit_map` chooses on the validation parts; ValueError where they have no window."""
    windows = (tau, horizon, kind, members[0].covariates)
    return _chosen_ridge(moments(pieces((each.train for each in members), *windows)), members, windows)


def _chosen_ridge(found: Moments, members: Sequence[Prepared], windows: Windows) -> float:
    tau, horizon, _, covariates = windows
    judged = (each.inputs[max(0, each.split.train_end - tau) : each.split.test_start] for each in members)
    if not (covariates.known and horizon > 1):
        return choose_penalty(decompose(found), pieces(judged, *windows))
    other = moments(pieces(judged, *windows))
    errors = [mean_square_error(other, _solved(found, each, windows)).sum() for each in PENALTIES]
    return max(zip(-np.array(errors), PENALTIES, strict=True))[1]


def _solved(found: Moments, ridge: float, windows: Windows) -> Map:
    _, horizon, _, covariates = windows
    if not (covariates.known and horizon > 1):
        return solve(decompose(found), ridge)
    num_inputs = len(found.inputs) - (horizon - 1) * covariates.known
    return solve_by_steps(found, ridge, num_inputs, covariates.known, horizon)


def linear_params(
    weights: Float[np.ndarray, "input target"],
    bias: Float[np.ndarray, "target"],
    scale: Float[np.ndarray, "target"] | None = None,
    known: Float[np.ndarray, "lead target"] | None = None,
) -> Params:
    """The parameters of a linear model of these weights; with a scale, of one with a normal head.

    known: weights of what is known of each step ahead, one step behind the other.
    """
    params = {"mean_kernel": weights, "mean_bias": bias}
    if known is not None:
        params["known_kernel"] = known
    if scale is not None:
        params["scale_kernel"] = np.zeros_like(weights)
        # The inverse of the head's softplus, written so that no large scale overflows.
        scale = np.maximum(scale - SMALLEST_SCALE, SMALLEST_SCALE)
        params["scale_bias"] = scale + np.log(-np.expm1(-scale))
    return {"value_head": {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}}


# Forecasts in NumPy

SMALL = 1 << 22  # products of forecasts that feed on themselves, below which nothing is compiled


class LinearMap(Normalised):
    """A linear model of normalised windows, whose forecasts can be made in NumPy: `panels.HostModel`."""

    def host_points(
        self,
        params: Params,
        windows: Float[np.ndarray, "origin window input"],
        horizon: int,
        ahead: Float[np.ndarray, "origin horizon covariate"] | None = None,
    ) -> Float[np.ndarray, "origin horizon feature"]:
        """What `rollout` gives from the carries of windows (O, tau, D), float64 (O, K, D)."""
        head = {name: np.asarray(leaf, np.float64) for name, leaf in params["value_head"].items()}
        known, width = np.asarray(windows, np.float64), self.num_features
        count, steps, reached = len(known), self.model.module.num_direct, self.tau + horizon
        while known.shape[1] < reached:
            seen, first = known[:, -self.tau :], known.shape[1] - self.tau
            found = statistics(seen[..., :width], self.kind)
            inputs = flat_inputs(seen, found, width, self.covariates)
            values = inputs @ head["mean_kernel"] + head["mean_bias"]
            if self.covariates.known:
                values = values + self._leads(ahead, first, steps) @ head["known_kernel"]
            values = found.undo(values.reshape(count, steps, width))
            if ahead is not None:
                beside = ahead[:, np.minimum(first + 1 + np.arange(steps), horizon - 1)]
                values = np.concatenate([values, beside], axis=-1)
            known = np.concatenate([known, values], axis=1)
        return known[:, self.tau : reached, :width]

    def _leads(
        self, ahead: Float[np.ndarray, "origin horizon covariate"], first: int, steps: int
    ) -> Float[np.ndarray, "origin lead"]:
        """What is known of the steps after some, as one row; 0 beyond the horizon, where nothing reads it."""
        rows = ahead[:, first : first + steps, : self.covariates.known]
        lacking = np.zeros((len(rows), steps - rows.shape[1], rows.shape[2]))
        return np.concatenate([rows, lacking], axis=1).reshape(len(rows), -1)

    def takes_host(self, num_origins: int, horizon: int) -> bool:
        """Whether that is sooner done than a program is compiled: one product, or few."""
        at_once = self.model.module.num_direct >= horizon
        return at_once or num_origins * horizon * self.tau * self.num_features**2 <= SMALL


class DirectLinearMap(LinearMap, DirectNormalised):
    """The same that predicts several steps at once."""

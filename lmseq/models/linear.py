"""Linear autoregression: its parameters in closed form, and its forecasts as products in NumPy.

The model is a `MarkovSeriesModel` without hidden layers, on windows that may be normalised.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lmseq.data.series import Prepared
from lmseq.data.windows import sliding_windows
from lmseq.models.direct_map import choose_penalty, decompose, mean_square_error, moments, pieces, solve
from lmseq.models.heads import SMALLEST_SCALE, HeadKind
from lmseq.models.normalised import DirectNormalised, Normalisation, Normalised, statistics
from lmseq.types import Params


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
    windows = (tau, horizon, kind)
    found = moments(pieces((each.train for each in members), *windows))
    if ridge == -1:
        judged = (each.values[max(0, each.split.train_end - tau) : each.split.test_start] for each in members)
        ridge = choose_penalty(decompose(found), pieces(judged, *windows))
        if refit:
            found = moments(pieces((each.values[: each.split.test_start] for each in members), *windows))
    solved = solve(decompose(found), ridge)
    scale = np.sqrt(mean_square_error(found, solved)) if head == "normal" else None
    return linear_params(solved.weights, solved.bias, scale)


def linear_params(
    weights: Float[np.ndarray, "input target"],
    bias: Float[np.ndarray, "target"],
    scale: Float[np.ndarray, "target"] | None = None,
) -> Params:
    """The parameters of a linear model of these weights; with a scale, of one with a normal head."""
    params = {"mean_kernel": weights, "mean_bias": bias}
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
        self, params: Params, windows: Float[np.ndarray, "origin window feature"], horizon: int
    ) -> Float[np.ndarray, "origin horizon feature"]:
        """What `rollout` gives from the carries of windows (O, tau, D), float64 (O, K, D)."""
        head = (params["value_head"][name] for name in ("mean_kernel", "mean_bias"))
        kernel, bias = (np.asarray(leaf, np.float64) for leaf in head)
        known = np.asarray(windows, np.float64)
        count, num_features, reached = len(known), self.num_features, self.tau + horizon
        while known.shape[1] < reached:
            seen = known[:, -self.tau :]
            found = statistics(seen, self.kind)
            ahead = found.apply(seen).reshape(count, -1) @ kernel + bias
            known = np.concatenate([known, found.undo(ahead.reshape(count, -1, num_features))], axis=1)
        return known[:, self.tau : reached]

    def takes_host(self, num_origins: int, horizon: int) -> bool:
        """Whether that is sooner done than a program is compiled: one product, or few."""
        at_once = self.model.module.num_direct >= horizon
        return at_once or num_origins * horizon * self.tau * self.num_features**2 <= SMALL


class DirectLinearMap(LinearMap, DirectNormalised):
    """The same that predicts several steps at once."""

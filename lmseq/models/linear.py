"""Linear autoregression in closed form: the parameters of a `MarkovSeriesModel` without hidden layers."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lmseq.data.windows import sliding_windows
from lmseq.models.heads import SMALLEST_SCALE, HeadKind
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
    params = {"mean_kernel": weights[:-1], "mean_bias": weights[-1]}
    if head == "normal":
        scale = np.sqrt(np.mean((labels - design @ weights) ** 2, axis=0))
        params["scale_kernel"] = np.zeros_like(weights[:-1])
        # The inverse of the head's softplus, written so that no large scale overflows.
        scale = np.maximum(scale - SMALLEST_SCALE, SMALLEST_SCALE)
        params["scale_bias"] = scale + np.log(-np.expm1(-scale))
    return {"value_head": {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}}

"""Sliding windows over a series: what a model that sees the last tau values is trained and judged on.

    series      0   1   2   3   4   5   6          T = 7, tau = 3, horizon = 1
    window 0   [0   1   2]  3
    window 1       [1   2   3]  4                  features (T - tau, tau), labels (T - tau,)
    window 2           [2   3   4]  5
    window 3               [3   4   5]  6

Anything older than tau steps is lost for good.
"""

import jax.numpy as jnp
import numpy as np

from lmseq.types import Windows


def check_windows(num_points: int, tau: int, horizon: int = 1) -> int:
    """The number of windows, T - tau - horizon + 1; ValueError where there is none."""
    if tau < 1 or horizon < 1:
        raise ValueError(f"expected tau and horizon of at least 1, got {tau} and {horizon}")
    if num_points < tau + horizon:
        raise ValueError(
            f"expected at least tau + horizon = {tau + horizon} points for one window, got {num_points}: "
            "give a longer series, or a smaller tau or horizon"
        )
    return num_points - tau - horizon + 1


def sliding_windows(series, tau: int, horizon: int = 1) -> Windows:
    """Every window of tau values of a series (T,) or (T, D), with the `horizon` values that follow it.

    features[i] = series[i : i + tau], (T - tau - horizon + 1, tau[, D]); labels[i] = series[i + tau],
    or, for a horizon above 1, series[i + tau : i + tau + horizon] along a second axis. T = 1000 and
    tau = 4 give (996, 4) and (996,). A NumPy series gives strided views that own no memory (copy before
    writing); a JAX one is gathered on its device, under jit too. Raises ValueError unless 1 <= tau and
    tau + horizon <= T.
    """
    count = check_windows(series.shape[0], tau, horizon)
    if isinstance(series, np.ndarray):
        windows = np.moveaxis(np.lib.stride_tricks.sliding_window_view(series, tau + horizon, axis=0), -1, 1)
    else:
        windows = series[jnp.arange(count)[:, None] + jnp.arange(tau + horizon)[None]]
    labels = windows[:, tau:]
    return Windows(windows[:, :tau], labels[:, 0] if horizon == 1 else labels)

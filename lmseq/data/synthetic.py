"""Synthetic time series, most of them with a known oracle: the least error, or how fast errors grow."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from lmseq.config.series import SYNTHETIC
from lmseq.data.series_types import Series

State = TypeVar("State", float, np.ndarray)


def _constant(level: float) -> Callable[[int], np.ndarray]:
    return lambda horizon: np.full(horizon, level)


def noisy_sine(rng: np.random.Generator, num_points: int = 1000, noise_scale: float = 0.2) -> Series:
    """x_t = sin(0.01 t) + noise_scale * N(0, 1), t = 1 ... T; the noise is the floor at every horizon."""
    t = np.arange(1, num_points + 1)
    values = np.sin(0.01 * t) + noise_scale * rng.normal(size=num_points)
    return Series("noisy_sine", ("x",), values[:, None], 628, _constant(noise_scale))


def trend_and_season(rng: np.random.Generator, num_points: int = 1000, noise_scale: float = 0.1) -> Series:
    """x_t = 0.002 t + sin(2 pi t / 24) + 0.5 sin(2 pi t / 168) + noise_scale * N(0, 1)."""
    t = np.arange(1, num_points + 1)
    season = np.sin(2 * np.pi * t / 24) + 0.5 * np.sin(2 * np.pi * t / 168)
    values = 0.002 * t + season + noise_scale * rng.normal(size=num_points)
    return Series("trend_and_season", ("x",), values[:, None], 24, _constant(noise_scale))


def check_stable(coefficients: np.ndarray) -> np.ndarray:
    """phi_1 ... phi_p; ValueError unless all roots of z^p - sum_j phi_j z^(p-j) are below 1 in size."""
    phi = np.atleast_1d(np.asarray(coefficients, np.float64))
    if phi.ndim != 1 or not phi.size or not np.isfinite(phi).all():
        raise ValueError(
            f"expected finite coefficients phi_1, phi_2, ... of an AR process, got {coefficients}"
        )
    largest = np.abs(np.roots(np.concatenate([[1.0], -phi]))).max(initial=0.0)
    if largest >= 1.0 - 1e-9:
        raise ValueError(
            f"expected coefficients of a stable AR process, whose roots are all smaller than 1, got "
            f"{', '.join(f'{value:g}' for value in phi)} with a root of size {largest:.6g}"
        )
    return phi


def random_coefficients(rng: np.random.Generator, order: int) -> Float[np.ndarray, "order"]:
    """Stable AR coefficients from partial autocorrelations drawn uniformly from (-0.9, 0.9).

    The Durbin-Levinson recursion maps (-1, 1)^p onto the stable region (Barndorff-Nielsen and Schou 1973).
    """
    phi = np.zeros(0)
    for partial_correlation in rng.uniform(-0.9, 0.9, order):
        phi = np.append(phi - partial_correlation * phi[::-1], partial_correlation)
    return phi


def ar_optimal_rmse(
    coefficients: Float[np.ndarray, "order"], noise_scale: float, horizon: int
) -> Float[np.ndarray, "horizon"]:
    """RMSE of the best k-step prediction, k = 1 ... K: s sqrt(sum_{j<k} psi_j^2), psi impulse response."""
    from scipy import signal  # slow to import, and no other series needs it

    impulse = np.zeros(horizon)
    impulse[0] = 1.0
    psi = signal.lfilter([1.0], np.concatenate([[1.0], -np.asarray(coefficients, np.float64)]), impulse)
    return noise_scale * np.sqrt(np.cumsum(psi**2))


def autoregression(
    rng: np.random.Generator,
    num_points: int,
    coefficients: np.ndarray | None = None,
    noise_scale: float = 1.0,
) -> Series:
    """x_t = sum_j phi_j x_{t-j} + noise_scale * N(0, 1), begun in its stationary law.

    Without coefficients there are three, stable and drawn at random. Raises ValueError for coefficients that
    are not stable.
    """
    from scipy import linalg, signal  # slow to import, and no other series needs them

    phi = check_stable(random_coefficients(rng, 3) if coefficients is None else coefficients)
    order = phi.size
    companion = np.vstack([phi, np.eye(order - 1, order)])
    shock = np.zeros((order, order))
    shock[0, 0] = noise_scale**2
    covariance = linalg.solve_discrete_lyapunov(companion, shock)
    root = np.linalg.cholesky(covariance + 1e-12 * np.trace(covariance) * np.eye(order))
    past = root @ rng.normal(size=order)  # newest first
    denominator = np.concatenate([[1.0], -phi])
    state = signal.lfiltic([1.0], denominator, past)
    noise = noise_scale * rng.normal(size=num_points)
    values = signal.lfilter([1.0], denominator, noise, zi=state)[0]
    return Series(
        "ar", ("x",), values[:, None], 0, lambda horizon: ar_optimal_rmse(phi, noise_scale, horizon)
    )


def logistic_map(rng: np.random.Generator, num_points: int = 1000) -> Series:
    """x_{t+1} = 4 x_t (1 - x_t) from a uniform start; chaotic, Lyapunov exponent ln 2."""
    values = np.empty(num_points)
    x = float(rng.uniform(0.1, 0.9))
    for t in range(num_points):
        values[t] = x
        x = 4.0 * x * (1.0 - x)
    return Series("logistic", ("x",), values[:, None], lyapunov=math.log(2.0))


def _runge_kutta(
    slope: Callable[[State, float], State],
    x: State,
    step: float,
    drive: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> State:
    """x one step later, of fourth order.

    slope(x, u): the derivative at a state x under a drive u, which is what comes from outside; `drive` has it
    at the step's beginning, middle and end.
    """
    k1 = slope(x, drive[0])
    k2 = slope(x + 0.5 * step * k1, drive[1])
    k3 = slope(x + 0.5 * step * k2, drive[1])
    k4 = slope(x + step * k3, drive[2])
    return x + step / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


def mackey_glass(rng: np.random.Generator, num_points: int = 1000, delay: int = 17) -> Series:
    """dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t), a value each time unit (Mackey and Glass 1977).

    Fourth-order Runge-Kutta with step 0.1; the delayed value at half a step is the mean of its neighbours.
    The history is 1.2 plus a little noise from `rng`; the first 1,000 units are thrown away.
    """

    def slope(x: float, inflow: float) -> float:
        return inflow - 0.1 * x

    per_unit, transient = 10, 1000
    step, lag = 1.0 / per_unit, delay * per_unit
    path = np.empty(lag + 1 + per_unit * (transient + num_points))
    path[: lag + 1] = 1.2 + 0.05 * rng.normal()
    x = path[lag]
    for t in range(lag, path.size - 1):
        old, new = path[t - lag], path[t - lag + 1]
        inflows = tuple(0.2 * d / (1.0 + d**10) for d in (old, 0.5 * (old + new), new))
        x = path[t + 1] = _runge_kutta(slope, x, step, inflows)
    values = path[lag + 1 + per_unit * transient :: per_unit][:num_points]
    return Series("mackey_glass", ("x",), values[:, None])


LORENZ_STEP = 0.02


def lorenz(rng: np.random.Generator, num_points: int = 2000) -> Series:
    """x' = 10 (y - x), y' = x (28 - z) - y, z' = x y - 8 z / 3 (Lorenz 1963), a value each 0.02 time units.

    Fourth-order Runge-Kutta with step 0.005 from a random start near (1, 1, 20), 20 units thrown away.
    The Lyapunov exponent, 0.9056 per time unit (Sprott 2003), is 0.0181 a step.
    """

    def slope(x: np.ndarray, _: float) -> np.ndarray:
        return np.array([10.0 * (x[1] - x[0]), x[0] * (28.0 - x[2]) - x[1], x[0] * x[1] - 8.0 / 3.0 * x[2]])

    inner, transient = 4, 1000
    x, values = np.array([1.0, 1.0, 20.0]) + rng.normal(size=3), np.empty((num_points, 3))
    for t in range(-transient, num_points):
        for _ in range(inner):
            x = _runge_kutta(slope, x, LORENZ_STEP / inner)
        values[max(t, 0)] = x
    return Series("lorenz", ("x", "y", "z"), values, lyapunov=0.9056 * LORENZ_STEP)


# The function that generates each series of the config, in the config's order. The first arguments of all
# are the generator of random numbers and the number of points.
GENERATORS: dict[str, Callable[..., Series]] = dict(
    zip(
        SYNTHETIC,
        (noisy_sine, autoregression, logistic_map, mackey_glass, lorenz, trend_and_season),
        strict=True,
    )
)

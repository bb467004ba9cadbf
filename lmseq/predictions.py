"""What can be asked of any prediction of values: its log-density, a point, quantiles, a draw."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, gammaln
from jaxtyping import Array, Float
from scipy import special

from lmseq.types import LEVELS, Laplace, NegativeBinomial, Normal, OfValues, PRNGKey, Quantiles, StudentT

MIDDLE = LEVELS.index(0.5)


def point(prediction: OfValues) -> Float[Array, "*dims feature"]:
    """The one value to forecast, (..., D): the mean, or of quantiles the median."""
    return prediction.values[..., MIDDLE] if isinstance(prediction, Quantiles) else prediction.mean


def value_log_prob(prediction: OfValues, x: Float[Array, "*dims feature"]) -> Float[Array, "*dims"]:
    """Joint log-density in nats of values x (..., D), of counts their log-probability.

    Quantiles are no density: of them it is minus the pinball loss, summed over levels and values, so that to
    maximise it is to fit them (Koenker and Bassett 1978).
    """
    match prediction:
        case Normal(mean, scale):
            z = (x - mean) / scale
            each = -0.5 * (z**2 + math.log(2.0 * math.pi)) - jnp.log(scale)
        case Laplace(mean, scale):
            each = -jnp.abs(x - mean) / scale - jnp.log(2.0 * scale)
        case StudentT(mean, scale, freedom):
            z, half = (x - mean) / scale, 0.5 * (freedom + 1.0)
            constant = gammaln(half) - gammaln(0.5 * freedom) - 0.5 * jnp.log(freedom * math.pi)
            each = constant - jnp.log(scale) - half * _log1p_square(z, freedom)
        case NegativeBinomial(mean, dispersion):
            each = _log_prob_of_counts(mean, dispersion, x)
        case Quantiles(values):
            above = x[..., None] - values
            levels = jnp.broadcast_to(jnp.array(LEVELS, values.dtype), values.shape)
            each = -jnp.sum(jnp.maximum(levels * above, (levels - 1.0) * above), axis=-1)
    return jnp.sum(each, axis=-1)


def _log_prob_of_counts(
    mean: Float[Array, "*dims"], dispersion: Float[Array, "*dims"], x: Float[Array, "*dims"]
) -> Float[Array, "*dims"]:
    """ln P(x): by the beta function, as differences of large ln Gamma would be rounding."""
    number, odds = 1.0 / dispersion, dispersion * mean
    ways = -betaln(number, x + 1.0) - jnp.log(x + number)
    return ways - number * jnp.log1p(odds) - x * jnp.log1p(1.0 / odds)


def _log1p_square(z: Float[Array, "*dims"], freedom: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """ln(1 + z^2 / freedom), also where z^2 overflows, with a derivative that is finite."""
    size = jnp.abs(z)
    large = size > 1e9
    usual = jnp.log1p(jnp.where(large, 0.0, z) ** 2 / freedom)
    return jnp.where(large, 2.0 * jnp.log(jnp.where(large, size, 1.0)) - jnp.log(freedom), usual)


def quantiles(prediction: OfValues, levels: Sequence[float]) -> Float[np.ndarray, "*dims feature level"]:
    """The quantiles at levels in (0, 1) of each value by itself, float64 (..., D, Q), on the host.

    Between the quantiles of a head the quantile function is straight, and so beyond them. Raises ValueError
    for a level out of range.
    """
    asked = np.asarray(levels, np.float64)
    if not ((asked > 0) & (asked < 1)).all():
        raise ValueError(f"expected levels of quantiles between 0 and 1, got {list(levels)}")
    parts = [np.asarray(leaf, np.float64)[..., None] for leaf in prediction]
    match prediction:
        case Normal():
            return parts[0] + parts[1] * special.ndtri(asked)
        case StudentT():
            return parts[0] + parts[1] * special.stdtrit(parts[2], asked)
        case Laplace():
            return parts[0] - parts[1] * np.sign(asked - 0.5) * np.log1p(-2.0 * np.abs(asked - 0.5))
        case NegativeBinomial():
            return _quantiles_of_counts(parts[0], parts[1], asked)
        case Quantiles():
            return np.asarray(_interpolate(parts[0][..., 0], asked, np))


def _quantiles_of_counts(
    mean: Float[np.ndarray, "*dims 1"], dispersion: Float[np.ndarray, "*dims 1"], levels: np.ndarray
) -> Float[np.ndarray, "*dims level"]:
    """The least counts whose distribution function is at least the levels, by bisection."""
    number, fails = 1.0 / dispersion, 1.0 / (1.0 + dispersion * mean)
    low = np.full(np.broadcast_shapes(mean.shape, levels.shape), -1.0)
    high = np.ceil(mean + np.sqrt((mean + dispersion * mean**2) / (1.0 - levels)))  # Chebyshev's bound
    while ((high - low) > 1).any():
        middle = np.floor((low + high) / 2)
        # A middle of -1 is a bracket that is closed already.
        reached = special.betainc(number, np.maximum(middle, 0) + 1.0, fails) >= levels
        reached &= middle > low
        low, high = np.where(reached | (high - low <= 1), low, middle), np.where(reached, middle, high)
    return high


def rescaled(
    prediction: OfValues, shift: Float[Array, "*dims 1 feature"], scale: Float[Array, "*dims 1 feature"]
) -> OfValues:
    """The prediction (..., K, D) of scale * x + shift, of a prediction of x; scale above 0.

    Of counts only the mean is brought to another scale, and there is no shift.
    """
    if isinstance(prediction, NegativeBinomial):
        return prediction._replace(mean=prediction.mean * scale)
    if isinstance(prediction, Quantiles):
        return Quantiles(prediction.values * scale[..., None] + shift[..., None])
    return prediction._replace(mean=prediction.mean * scale + shift, scale=prediction.scale * scale)


def averaged(members: OfValues, *, has_spread: bool = True) -> OfValues:
    """One prediction (...) from those of S members, leaves (S, ...).

    Every part is the members' mean, quantiles level by level. But a normal distribution's scale is that of
    their mixture, which their disagreement widens; not so without has_spread, where scales are but a unit.
    """
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), members)
    if not has_spread or not isinstance(members, Normal):
        return mean
    # The root of the mean of all squares, of parts so large or small that these are no numbers of float32.
    parts = jnp.concatenate([members.scale, members.mean - mean.mean[None]])
    largest = jnp.max(jnp.abs(parts), axis=0)
    squares = jnp.sum((parts / largest[None]) ** 2, axis=0) / len(members.scale)
    return mean._replace(scale=largest * jnp.sqrt(squares))


def draw_values(key: PRNGKey, prediction: OfValues) -> Float[Array, "*dims feature"]:
    """One draw of each value, (..., D); of quantiles by their inverse distribution, as `quantiles` has it."""
    match prediction:
        case Normal(mean, scale):
            return mean + scale * jax.random.normal(key, mean.shape)
        case StudentT(mean, scale, freedom):
            return mean + scale * jax.random.t(key, freedom, mean.shape)
        case Laplace(mean, scale):
            return mean + scale * jax.random.laplace(key, mean.shape)
        case NegativeBinomial(mean, dispersion):
            of_rate, of_count = jax.random.split(key)
            rate = mean * dispersion * jax.random.gamma(of_rate, 1.0 / dispersion)
            return jax.random.poisson(of_count, rate).astype(mean.dtype)
        case Quantiles(values):
            uniform = jax.random.uniform(key, values.shape[:-1])
            return _interpolate(values, uniform[..., None], jnp)[..., 0]


def _interpolate(values, levels, xp):
    """Values (..., D, 5) at LEVELS, by straight lines at levels (..., D, Q) or (Q,)."""
    known = xp.asarray(LEVELS, values.dtype)
    left = xp.clip(xp.searchsorted(known, levels, side="right") - 1, 0, len(LEVELS) - 2)
    left = xp.broadcast_to(left, (*values.shape[:-1], levels.shape[-1]))
    low, high = (xp.take_along_axis(values, left + i, axis=-1) for i in (0, 1))
    share = (levels - known[left]) / (known[left + 1] - known[left])
    return low + share * (high - low)

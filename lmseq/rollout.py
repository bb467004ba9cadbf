"""What single-step loss hides: prediction several steps ahead, on the model's own continuations.

First values, whose point forecasts are compared with what came; then tokens, whose probabilities are
averaged over sampled continuations. Only the contract is used, so counts, windows, recurrent nets and the
baselines of `models.baselines` all go the same way.
"""

from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import Model, gather_log_probs, predict_directly, repeat_carry, with_covariates
from lmseq.predictions import point
from lmseq.programs import program
from lmseq.sampling import draw, invert
from lmseq.strips import strip_carries
from lmseq.types import Carry, LogProbs, OfValues, Params, PRNGKey, Tokens

Values = Float[Array | np.ndarray, "time input"]  # with what stands behind them
Points = Float[Array | np.ndarray, "origin horizon feature"]
Ahead = Float[Array | np.ndarray, "origin horizon covariate"]  # of an origin's newest element and the next
BLOCK = 4096  # origins rolled out together: their carries and predictions stay in the cache
LARGEST = 1 << 24  # numbers that carries and predictions of one call of a program hold at most
NEAR = 1 << 18  # the same on a CPU, whose caches hold so many


# Values


@runtime_checkable
class DirectModel(Protocol):
    """A model that also predicts several steps from one carry, without feedback."""

    def readout_direct(self, params: Params, carry: Carry) -> OfValues:
        """The next K elements, a prediction of (B, K, D).

        Of a model that reads covariates known ahead, those of L steps are a third argument, (B, L, C).
        """
        ...


@runtime_checkable
class HostModel(Protocol):
    """A model of windows whose forecasts are a few products, made in NumPy where nothing must be compiled."""

    memory: int

    def host_points(
        self,
        params: Params,
        windows: Float[np.ndarray, "origin window input"],
        horizon: int,
    ) -> Float[np.ndarray, "origin horizon feature"]:
        """What `rollout` gives from the carries of windows (O, tau, D), float64 (O, K, D).

        Of a model that reads covariates, `ahead` is a fourth argument.
        """
        ...

    def takes_host(self, num_origins: int, horizon: int) -> bool:
        """Whether that is sooner done than a program is compiled."""
        ...


def rollout(model: Model, params: Params, carry: Carry, horizon: int, ahead: Ahead | None = None) -> Points:
    """Point forecasts 1 ... K steps ahead from each of O carries, float32 (O, K, D).

    Each step reads the point out (mean or median) and feeds it back. A model that predicts K' steps directly
    does so for these; beyond them it feeds its own predictions back, K' at a time. ahead: (O, K, C), the
    covariates of the origin's element and of the K - 1 that follow, of a model that reads such.
    """
    if isinstance(model, DirectModel):
        return _direct_rollout(model, params, carry, horizon, ahead)

    def step(carry: Carry, row: Array | None) -> tuple[Carry, Float[Array, "origin feature"]]:
        value = point(model.readout(params, carry))
        return model.update(params, carry, with_covariates(value, row)), value

    rows = None if ahead is None else jnp.swapaxes(_rows(ahead, 1 + np.arange(horizon)), 0, 1)
    return jnp.swapaxes(lax.scan(step, carry, rows, length=horizon)[1], 0, 1)


def _rows(ahead: Ahead, places: Int[np.ndarray, "..."]) -> Float[Array, "origin ..."]:
    """Covariates at some places; beyond the last, where no forecast reads them, they are the last ones."""
    return jnp.asarray(ahead)[:, np.minimum(places, ahead.shape[1] - 1)]


def _direct_rollout(model: Model, params: Params, carry: Carry, horizon: int, ahead: Ahead | None) -> Points:
    def points(carry: Carry, rows: Array | None) -> Points:
        return point(predict_directly(model, params, carry, rows))

    def piece(carry: Carry, rows: Array | None) -> tuple[Carry, Points]:
        values = points(carry, None if rows is None else rows[:, :-1])
        after = model.carries(params, carry, with_covariates(values, None if rows is None else rows[:, 1:]))
        return jax.tree.map(lambda leaf: leaf[:, -1], after), values

    # A loop over the pieces: one long forecast would else be compiled piece by piece.
    num_direct = jax.eval_shape(points, carry, ahead).shape[1]
    num_pieces, rows, last = -(-horizon // num_direct), None, None
    if ahead is not None:
        # Each piece has its K' rows, and the one that goes with the last value that is fed back.
        places = num_direct * np.arange(num_pieces)[:, None] + np.arange(num_direct + 1)[None]
        rows = jnp.moveaxis(_rows(ahead, places), 1, 0)
        rows, last = rows[:-1], rows[-1, :, :-1]
    carry, before = lax.scan(piece, carry, rows, length=num_pieces - 1)
    pieces = jnp.concatenate([before, points(carry, last)[None]])
    return jnp.moveaxis(pieces, 0, 1).reshape(pieces.shape[1], -1, pieces.shape[-1])[:, :horizon]


def _blockwise(
    model: Model, params: Params, carries: Carry, horizon: int, block: int, ahead: Ahead | None
) -> Points:
    """`rollout` of all carries, `block` at a time, in one program."""
    num_origins = jax.tree.leaves(carries)[0].shape[0]
    if num_origins <= block:
        return rollout(model, params, carries, horizon, ahead)
    num_blocks = -(-num_origins // block)
    rows = jnp.minimum(jnp.arange(num_blocks * block), num_origins - 1).reshape(num_blocks, block)

    def forecast(rows: Int[Array, "block"]) -> Points:
        chosen, beside = jax.tree.map(lambda leaf: leaf[rows], (carries, ahead))
        return rollout(model, params, chosen, horizon, beside)

    points = lax.map(forecast, rows)
    return points.reshape(-1, *points.shape[2:])[:num_origins]


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _k_step_points(model, params, values, first_origin, horizon, block, ahead):
    seen = values[: values.shape[0] - horizon]
    carries = model.carries(params, model.init_carry(params, 1), seen[None])
    carries = jax.tree.map(lambda leaf: leaf[0, first_origin - 1 :], carries)
    return _blockwise(model, params, carries, horizon, block, ahead)


def k_step_points(
    model: Model,
    params: Params,
    values: Values,
    *,
    max_horizon: int,
    first_origin: int = 1,
    block: int = BLOCK,
    ahead: Ahead | None = None,
) -> Points:
    """Forecasts 1 ... K steps ahead from every origin t = t_0 ... T - K, float32 (T - K - t_0 + 1, K, D).

    Origin t has seen the first t of values (T, D); entry [t - t_0, k - 1] predicts values[t + k - 1] on
    the model's own predictions between. One program: a pass over the series whose carries are kept, then
    K steps from all of them; few products are made in NumPy instead, in float64. Of a model that reads
    covariates, values are the elements with them, and `ahead` has those of each origin, as `rollout` takes
    them. Raises ValueError unless 1 <= t_0 <= T - K.
    """
    _check_origins(len(values), max_horizon, first_origin)
    origins = np.arange(first_origin, len(values) - max_horizon + 1)
    if isinstance(model, HostModel) and model.takes_host(len(origins), max_horizon):
        return on_host(model, params, last_windows(values, origins, model.memory), max_horizon, ahead)
    values, block = jnp.asarray(values, jnp.float32), min(block, len(values))
    return _k_step_points(model, params, values, first_origin, max_horizon, block, ahead)


def on_host(
    model: HostModel, params: Params, windows: np.ndarray, horizon: int, ahead: Ahead | None
) -> Float[np.ndarray, "origin horizon feature"]:
    """`host_points` of a model that reads covariates, or of one that does not."""
    return model.host_points(params, windows, horizon, *(() if ahead is None else (ahead,)))


def last_windows(
    values: Values, origins: Int[np.ndarray, "origin"], width: int
) -> Float[np.ndarray, "origin window input"]:
    """The last values before each origin, (O, width, D); zeros stand before the beginning."""
    values = np.asarray(values)
    padded = np.concatenate([np.zeros((width, values.shape[1]), values.dtype), values])
    return padded[origins[:, None] + np.arange(width)[None]]


def _check_origins(num_points: int, max_horizon: int, first_origin: int) -> None:
    if max_horizon < 1 or not 1 <= first_origin <= num_points - max_horizon:
        raise ValueError(
            f"expected an origin after {first_origin} points with {max_horizon} more to predict (at least 1 "
            f"each), got {num_points} points: give a longer series or a smaller horizon"
        )


def k_step_targets(
    values: Float[np.ndarray, "time feature"], *, max_horizon: int, first_origin: int = 1
) -> Float[np.ndarray, "origin horizon feature"]:
    """What came: values[t + k - 1] for the origins and horizons of `k_step_points`, a strided view."""
    _check_origins(len(values), max_horizon, first_origin)
    ahead = np.lib.stride_tricks.sliding_window_view(values[first_origin:], max_horizon, axis=0)
    return np.moveaxis(ahead, -1, 1)


@partial(jax.jit, static_argnums=(0, 3))
def _free_run(model, params, seen, num_steps, ahead):
    carry = model.unroll(params, model.init_carry(params, 1), seen[None])[0]
    return rollout(model, params, carry, num_steps, ahead)[0]


def free_run(
    model: Model, params: Params, seen: Values, *, num_steps: int, ahead: Ahead | None = None
) -> Float[Array, "num_steps feature"]:
    """The model on its own from one origin: N predictions after values (T, D), T >= 1, float32 (N, D).

    ahead: (1, N, C), as `rollout` takes it.
    """
    _check_origins(len(seen) + num_steps, num_steps, len(seen))
    return _free_run(model, params, jnp.asarray(seen, jnp.float32), num_steps, ahead)


@partial(jax.jit, static_argnums=(1, 4, 5))
def _sample_paths(key, model, params, seen, num_paths, num_steps, ahead):
    def step(carry: Carry, now: tuple[PRNGKey, Array | None]):
        x = draw(now[0], model.readout(params, carry))
        return model.update(params, carry, with_covariates(x, now[1])), x

    rows = None
    if ahead is not None:
        rows = jnp.repeat(jnp.swapaxes(_rows(ahead, 1 + np.arange(num_steps)), 0, 1), num_paths, axis=1)
    carry = model.unroll(params, model.init_carry(params, 1), seen[None])[0]
    keys = jax.random.split(key, num_steps)
    drawn = lax.scan(step, repeat_carry(carry, num_paths), (keys, rows))[1]
    return jnp.swapaxes(drawn, 0, 1)


def sample_paths(
    key: PRNGKey,
    model: Model,
    params: Params,
    seen: Values,
    *,
    num_paths: int,
    num_steps: int,
    ahead: Ahead | None = None,
) -> Float[Array, "sample num_steps feature"]:
    """S trajectories of N values drawn from the model after values (T, D), T >= 1, float32 (S, N, D).

    Their quantiles over S are a band for the future, which a point head's unit scale does not make sense
    of. ahead: (1, N, C), as `rollout` takes it. Raises ValueError for counts below 1.
    """
    _check_origins(len(seen) + num_steps, num_steps, len(seen))
    if num_paths < 1:
        raise ValueError(f"expected num_paths of at least 1, got {num_paths}")
    return _sample_paths(key, model, params, jnp.asarray(seen, jnp.float32), num_paths, num_steps, ahead)


# Tokens


def rollout_log_probs(
    key: PRNGKey, model: Model, params: Params, carry: Carry, targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """log P(targets[b, k]) under the model's next-token distribution after k tokens of its own, (B, K).

    From each of B carries: read out, note the probability of the target, draw a token, update with the
    drawn one; so entry 0 is the ordinary one-step log-probability.
    """

    uniforms = _uniforms(key, targets.shape[1], targets.shape[0])
    return _log_probs_ahead(model, params, carry, targets, uniforms)


def _uniforms(key: PRNGKey, horizon: int, num_rows: int) -> Float[Array, "horizon batch 1"]:
    """A number for each row and step: those of `draw` from one key a step."""
    keys = jax.random.split(key, horizon)
    return jax.vmap(lambda key: jax.random.uniform(key, (num_rows, 1)))(keys)


def _log_probs_ahead(
    model: Model,
    params: Params,
    carry: Carry,
    targets: Int[Array, "batch time"],
    uniforms: Float[Array, "time batch 1"],
) -> Float[Array, "batch time"]:
    def step(carry: Carry, now: tuple[Float[Array, "batch 1"], Int[Array, "batch"]]):
        uniform, target = now
        log_probs = model.readout(params, carry)
        carry = model.update(params, carry, invert(uniform, log_probs))
        return carry, gather_log_probs(log_probs, target)

    return lax.scan(step, carry, (uniforms, targets.T))[1].T


def origins_at_once(model: Model, params: Params, num_samples: int) -> int:
    """How many origins of S samples hold at most so many numbers in carries and predictions; at least 1.

    LARGEST, or, on a CPU, NEAR.
    """

    def row(params: Params) -> tuple[Carry, LogProbs]:
        carry = model.init_carry(params, 1)
        return carry, model.readout(params, carry)

    numbers = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(row, params)))
    most = NEAR if jax.default_backend() == "cpu" else LARGEST
    return max(1, most // max(1, num_samples * numbers))


@program(static_argnums=(1, 4, 5, 6, 7))
def _rollouts(key, model, params, tokens, num_origins, num_samples, max_horizon, block):
    """Log-probabilities of the targets in each continuation, (num_origins, num_samples, max_horizon)."""
    spacing = (tokens.shape[0] - max_horizon) // num_origins
    # One strip begins with nothing seen and is no origin: hence one more than asked for.
    starts = spacing * jnp.arange(num_origins + 1, dtype=jnp.int32)
    carries = strip_carries(model, params, tokens, starts, spacing)
    origins = jax.tree.map(lambda leaf: leaf[1:], carries)
    targets = tokens[starts[1:, None] + jnp.arange(max_horizon)[None]]
    # All numbers of chance before the blocks, so that none depends on how many origins one has.
    uniforms = _uniforms(key, max_horizon, num_origins * num_samples)
    uniforms = uniforms.reshape(max_horizon, num_origins, num_samples)

    def of_origins(chosen: Int[Array, "block"]) -> Float[Array, "block sample horizon"]:
        carry = repeat_carry(jax.tree.map(lambda leaf: leaf[chosen], origins), num_samples)
        ahead = jnp.repeat(targets[chosen], num_samples, axis=0)
        drawn = uniforms[:, chosen].reshape(max_horizon, -1, 1)
        found = _log_probs_ahead(model, params, carry, ahead, drawn)
        return found.reshape(-1, num_samples, max_horizon)

    number = -(-num_origins // block)
    chosen = jnp.minimum(jnp.arange(number * block), num_origins - 1).reshape(number, block)
    return lax.map(of_origins, chosen).reshape(-1, num_samples, max_horizon)[:num_origins]


def log_mean_prob(log_probs: Float[np.ndarray, "batch sample time"]) -> Float[np.ndarray, "batch time"]:
    """log of the mean over S samples of probabilities given as logarithms, its bias removed to order 1/S.

    The logarithm of an average of S draws is too low by var / (2 S mean^2) in expectation (second-order
    Taylor expansion, the delta method); the estimate of that, at most 1/2, is added back. -inf where
    every sample has probability zero. Float64.
    """
    log_probs = np.asarray(log_probs, np.float64)
    num_samples = log_probs.shape[1]
    largest = np.max(log_probs, axis=1, keepdims=True)
    scale = np.where(np.isneginf(largest), 0.0, largest)
    scaled = np.exp(log_probs - scale)
    mean = scaled.mean(axis=1)
    if num_samples == 1:
        return log_probs[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = np.nan_to_num(scaled.var(axis=1, ddof=1) / (2 * num_samples * mean**2))
        return np.log(mean) + scale[:, 0] + correction


def k_step_log_probs(
    key: PRNGKey,
    model: Model,
    params: Params,
    tokens: Tokens,
    *,
    max_horizon: int = 64,
    num_origins: int = 128,
    num_samples: int = 64,
    block: int | None = None,
) -> Float[np.ndarray, "origin horizon"]:
    """log P(x_{t+k} | x_1 ... x_t) for each of O origins t and k = 1 ... K, nats, float64 (O, K).

    P averages the next-token distributions at step k over S continuations of k - 1 tokens drawn from
    the model (`log_mean_prob`); what is left of the bias makes the logarithm a little too low where S
    is small: report S with it. Origins are spread evenly over the stream (T,); with all samples they are
    rolled out in one program after an exact warm-up, `block` at a time: by default `origins_at_once`. The
    block changes no draw.

    Raises ValueError unless T >= num_origins + max_horizon.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    if min(max_horizon, num_origins, num_samples) < 1 or tokens.size < num_origins + max_horizon:
        raise ValueError(
            f"expected at least num_origins + max_horizon = {num_origins + max_horizon} tokens (both and "
            f"num_samples at least 1), got {tokens.size} tokens and {num_samples} samples"
        )
    block = block or origins_at_once(model, params, num_samples)
    block = -(-num_origins // -(-num_origins // block))  # all of about one size
    found = _rollouts(key, model, params, tokens, num_origins, num_samples, max_horizon, block)
    return log_mean_prob(np.asarray(found))


def k_step_cross_entropy(
    key: PRNGKey,
    model: Model,
    params: Params,
    tokens: Tokens,
    *,
    max_horizon: int = 64,
    num_origins: int = 128,
    num_samples: int = 64,
) -> Float[np.ndarray, "horizon"]:
    """L(k) = - mean over origins t of log P(x_{t+k} | x_1 ... x_t), nats, float64 (K,) for k = 1 ... K.

    The mean of `k_step_log_probs`, with its arguments and errors. L(1) is the ordinary loss at those
    origins; L(k) rises towards the entropy of the unigram distribution.
    """
    log_probs = k_step_log_probs(
        key,
        model,
        params,
        tokens,
        max_horizon=max_horizon,
        num_origins=num_origins,
        num_samples=num_samples,
    )
    return -log_probs.mean(axis=0)

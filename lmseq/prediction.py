"""What single-step loss hides: prediction several steps ahead, on the model's own continuations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import Model, gather_log_probs, repeat_carry
from lmseq.evaluation import strip_carries
from lmseq.sampling import draw
from lmseq.types import Carry, Params, PRNGKey, Tokens


def rollout_log_probs(
    key: PRNGKey, model: Model, params: Params, carry: Carry, targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """log P(targets[b, k]) under the model's next-token distribution after k tokens of its own, (B, K).

    From each of B carries: read out, note the probability of the target, draw a token, update with the
    drawn one; so entry 0 is the ordinary one-step log-probability.
    """

    def step(carry: Carry, now: tuple[PRNGKey, Int[Array, "batch"]]):
        key, target = now
        log_probs = model.readout(params, carry)
        carry = model.update(params, carry, draw(key, log_probs))
        return carry, gather_log_probs(log_probs, target)

    keys = jax.random.split(key, targets.shape[1])
    return lax.scan(step, carry, (keys, targets.T))[1].T


@partial(jax.jit, static_argnums=(1, 4, 5, 6))
def _rollouts(key, model, params, tokens, num_origins, num_samples, max_horizon):
    """Log-probabilities of the targets in each continuation, (num_origins, num_samples, max_horizon)."""
    spacing = (tokens.shape[0] - max_horizon) // num_origins
    # One strip begins with nothing seen and is no origin: hence one more than asked for.
    starts = spacing * jnp.arange(num_origins + 1, dtype=jnp.int32)
    carries = strip_carries(model, params, tokens, starts, spacing)
    origins = jax.tree.map(lambda leaf: leaf[1:], carries)
    targets = tokens[starts[1:, None] + jnp.arange(max_horizon)[None]]
    log_probs = rollout_log_probs(
        key, model, params, repeat_carry(origins, num_samples), jnp.repeat(targets, num_samples, axis=0)
    )
    return log_probs.reshape(num_origins, num_samples, max_horizon)


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
) -> Float[np.ndarray, "origin horizon"]:
    """log P(x_{t+k} | x_1 ... x_t) for each of O origins t and k = 1 ... K, nats, float64 (O, K).

    P averages the next-token distributions at step k over S continuations of k - 1 tokens drawn from
    the model (`log_mean_prob`); what is left of the bias makes the logarithm a little too low where S
    is small: report S with it. Origins are spread evenly over the stream (T,); all of them, with all
    samples, are one jitted scan after an exact warm-up.

    Raises ValueError unless T >= num_origins + max_horizon.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    if min(max_horizon, num_origins, num_samples) < 1 or tokens.size < num_origins + max_horizon:
        raise ValueError(
            f"expected at least num_origins + max_horizon = {num_origins + max_horizon} tokens (both and "
            f"num_samples at least 1), got {tokens.size} tokens and {num_samples} samples"
        )
    return log_mean_prob(
        np.asarray(_rollouts(key, model, params, tokens, num_origins, num_samples, max_horizon))
    )


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

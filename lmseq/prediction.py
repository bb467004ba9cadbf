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
def _horizon(key, model, params, tokens, num_origins, num_samples, max_horizon):
    """Log of the mean probability over samples, (num_origins, max_horizon)."""
    spacing = (tokens.shape[0] - max_horizon) // num_origins
    # One strip begins with nothing seen and is no origin: hence one more than asked for.
    starts = spacing * jnp.arange(num_origins + 1, dtype=jnp.int32)
    carries = strip_carries(model, params, tokens, starts, spacing)
    origins = jax.tree.map(lambda leaf: leaf[1:], carries)
    targets = tokens[starts[1:, None] + jnp.arange(max_horizon)[None]]
    log_probs = rollout_log_probs(
        key, model, params, repeat_carry(origins, num_samples), jnp.repeat(targets, num_samples, axis=0)
    )
    by_sample = log_probs.reshape(num_origins, num_samples, max_horizon)
    return jax.nn.logsumexp(by_sample, axis=1) - jnp.log(num_samples)


def k_step_cross_entropy(
    key: PRNGKey,
    model: Model,
    params: Params,
    tokens: Tokens,
    *,
    max_horizon: int = 64,
    num_origins: int = 256,
    num_samples: int = 32,
) -> Float[np.ndarray, "time"]:
    """L(k) = - mean over origins t of log P(x_{t+k} | x_1 ... x_t), nats, float64 (K,) for k = 1 ... K.

    P averages the next-token distributions at step k over S continuations of k - 1 tokens drawn from
    the model, so L(1) is the ordinary loss at those origins and L(k) rises towards the entropy of the
    unigram distribution. With few samples the logarithm of the average is biased: L is too high by
    about var(P) / (2 S P^2). Origins are spread evenly over the stream (T,); all of them, with all
    samples, are one jitted scan after an exact warm-up.

    Raises ValueError unless T >= num_origins + max_horizon.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    if min(max_horizon, num_origins, num_samples) < 1 or tokens.size < num_origins + max_horizon:
        raise ValueError(
            f"expected at least num_origins + max_horizon = {num_origins + max_horizon} tokens (both and "
            f"num_samples at least 1), got {tokens.size} tokens and {num_samples} samples"
        )
    log_probs = _horizon(key, model, params, tokens, num_origins, num_samples, max_horizon)
    return -np.asarray(log_probs).mean(axis=0, dtype=np.float64)

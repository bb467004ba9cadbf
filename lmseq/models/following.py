"""A mixture whose weights follow what has predicted well (Herbster and Warmuth 1998)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import StepModel, check_key, gather_log_probs, is_in_order
from lmseq.models.mixture import Mixture, MixtureParams
from lmseq.types import Carry, LogProbs, PRNGKey, TokenBatch, TokenLogProbs


class FollowingParams(NamedTuple):
    """A mixture's parameters, whose weights are those to begin with, and the share in [0, 1]."""

    mixture: MixtureParams
    share: Float[Array, ""]


class FollowingCarry(NamedTuple):
    """The parts' carries, and the logarithms of each row's weights, which sum to 1."""

    parts: tuple[Carry, ...]
    log_weights: Float[Array, "batch part"]


@dataclass(frozen=True)
class Following(StepModel):
    """A mixture of M models whose weights begin as fitted ones, and after each token x are

        w_m <- (1 - share) w_m p_m(x) / sum_k w_k p_k(x) + share fitted_m

    Herbster and Warmuth (1998), their fixed share, given out by the fitted weights and not in equal parts.
    With share 1 the weights stay as fitted: the mixture itself. With share 0 they are the posterior
    probabilities of the parts. A token that no part allows leaves the weights to the share alone.
    """

    mixture: Mixture

    @property
    def in_order(self) -> bool:
        """Whether the mixture is."""
        return is_in_order(self.mixture)

    def init(self, key: PRNGKey) -> FollowingParams:
        """The mixture's own, and a share of 1."""
        return FollowingParams(self.mixture.init(key), jnp.array(1.0))

    def init_carry(self, params: FollowingParams, batch_size: int) -> FollowingCarry:
        """The parts' initial carries, and the fitted weights."""
        log_weights = jnp.repeat(params.mixture.log_weights[None], batch_size, axis=0)
        return FollowingCarry(self.mixture.init_carry(params.mixture, batch_size), log_weights)

    def update(self, params: FollowingParams, carry: FollowingCarry, x: Int[Array, "batch"]) -> Carry:
        """The parts see x, and the weights follow what they said of it."""
        found = [gather_log_probs(each, x) for each in self._readouts(params, carry)]
        log_weights = _followed(params, carry.log_weights, jnp.stack(found, axis=-1))
        return FollowingCarry(self.mixture.update(params.mixture, carry.parts, x), log_weights)

    def readout(self, params: FollowingParams, carry: FollowingCarry) -> LogProbs:
        """The mixed distribution."""
        return _mix(carry.log_weights[:, None], self._readouts(params, carry))

    def unroll(
        self,
        params: FollowingParams,
        carry: FollowingCarry,
        xs: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[FollowingCarry, Float[Array, "batch time vocab"]]:
        """Every part unrolled, then mixed; there is no noise."""
        check_key(training, key)
        pairs = zip(self.mixture.parts, params.mixture.parts, carry.parts, strict=True)
        lasts, log_probs = zip(*(part.unroll(p, c, xs) for part, p, c in pairs), strict=True)
        later = [gather_log_probs(each[:, :-1], xs[:, 1:]) for each in log_probs]
        log_weights = self._weights(params, carry, xs, jnp.stack(later, axis=-1))
        last = FollowingCarry(lasts, log_weights[:, -1])
        return last, _mix(log_weights[:, :, None], log_probs)

    def token_log_probs(
        self,
        params: FollowingParams,
        carry: FollowingCarry,
        xs: TokenBatch,
        targets: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[FollowingCarry, TokenLogProbs]:
        """The log-probabilities of the targets under every part, then mixed.

        Where a target is the next input, as it is in a text, no part is asked a second time.
        """
        check_key(training, key)
        lasts, log_probs = self._token_log_probs(params, carry, xs, targets)
        later = jnp.stack(log_probs, axis=-1)[:, :-1]
        if xs.shape[1] > 1:
            later = lax.cond(
                jnp.array_equal(xs[:, 1:], targets[:, :-1]),
                lambda: later,
                lambda: jnp.stack(self._token_log_probs(params, carry, xs[:, :-1], xs[:, 1:])[1], axis=-1),
            )
        log_weights = self._weights(params, carry, xs, later)
        return FollowingCarry(lasts, log_weights[:, -1]), _mix(log_weights, log_probs)

    def _readouts(self, params: FollowingParams, carry: FollowingCarry) -> list[LogProbs]:
        pairs = zip(self.mixture.parts, params.mixture.parts, carry.parts, strict=True)
        return [part.readout(p, c) for part, p, c in pairs]

    def _token_log_probs(
        self, params: FollowingParams, carry: FollowingCarry, xs: TokenBatch, targets: TokenBatch
    ) -> tuple[tuple[Carry, ...], tuple[TokenLogProbs, ...]]:
        """The last carry of each part, and what it says of the targets."""
        pairs = zip(self.mixture.parts, params.mixture.parts, carry.parts, strict=True)
        return tuple(zip(*(part.token_log_probs(p, c, xs, targets) for part, p, c in pairs), strict=True))

    def _weights(
        self,
        params: FollowingParams,
        carry: FollowingCarry,
        xs: TokenBatch,
        later: Float[Array, "batch _ part"],
    ) -> Float[Array, "batch time part"]:
        """ln w after each of xs, given what the parts say of all but the first of them."""
        first = [gather_log_probs(each, xs[:, 0]) for each in self._readouts(params, carry)]
        found = jnp.concatenate([jnp.stack(first, axis=-1)[:, None], later], axis=1)

        def step(log_weights: Array, log_probs: Array) -> tuple[Array, Array]:
            log_weights = _followed(params, log_weights, log_probs)
            return log_weights, log_weights

        return jnp.swapaxes(lax.scan(step, carry.log_weights, jnp.swapaxes(found, 0, 1))[1], 0, 1)


def with_share(mixture: Mixture, params: MixtureParams, share: float) -> tuple[Following, FollowingParams]:
    """The mixture with weights of which such a share stays as fitted."""
    return Following(mixture), FollowingParams(params, jnp.array(share))


def _followed(
    params: FollowingParams, log_weights: Float[Array, "batch part"], log_probs: Float[Array, "batch part"]
) -> Float[Array, "batch part"]:
    """ln w of each row after a token, of which the parts said ln p."""
    joint = log_weights + log_probs
    total = jax.nn.logsumexp(joint, axis=-1, keepdims=True)
    kept = jnp.where(total > -jnp.inf, joint - total, log_weights)
    given = jnp.log(params.share) + params.mixture.log_weights
    return jnp.logaddexp(jnp.log1p(-params.share) + kept, given[None])


def _mix(log_weights: Float[Array, "*dims part"], log_probs: Sequence[Array]) -> Array:
    """ln sum_m w_m p_m, of M arrays of ln p that the weights' other dimensions go with."""
    weighted = [log_weights[..., number] + each for number, each in enumerate(log_probs)]
    return jax.nn.logsumexp(jnp.stack(weighted), axis=0)


@jax.jit
def _follow(log_weights, share, log_probs):
    """The program of `follow`: ln p of each token."""
    params = FollowingParams(MixtureParams(log_weights, ()), share)

    def step(log_weights, log_probs):
        mixed = jax.nn.logsumexp(log_weights + log_probs, axis=-1)[0]
        return _followed(params, log_weights, log_probs), mixed

    return lax.scan(step, log_weights[None], log_probs[:, None])[1]


def follow(
    weights: Float[np.ndarray, "part"], share: float, log_probs: Float[np.ndarray, "part time"]
) -> Float[np.ndarray, "time"]:
    """ln p of each token of one stream under `Following`, from those of the parts (M, T); float64 (T,)."""
    with np.errstate(divide="ignore"):
        log_weights = jnp.asarray(np.log(weights), jnp.float32)
    found = _follow(log_weights, jnp.float32(share), jnp.asarray(log_probs, jnp.float32).T)
    return np.asarray(found, np.float64)


def fit_share(
    weights: Float[np.ndarray, "part"],
    log_probs: Float[np.ndarray, "part time"],
    shares: Sequence[float],
) -> float:
    """The one of `shares` under which held-out tokens are likeliest, given ln p of the parts (M, T).

    Of equals, the first.
    """
    return max(shares, key=lambda share: follow(weights, share, log_probs).sum())

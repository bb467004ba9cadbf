"""Models made of models: a linear interpolation of several, and caches of what came lately.

Each is one more model under the contract, whose carry is a tuple of carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmseq.contract import Model, StepModel, check_key, is_in_order
from lmseq.models.interface import hidden, hidden_steps
from lmseq.scoring import score_stream
from lmseq.types import Carry, LogProbs, Params, PRNGKey, TokenBatch, TokenLogProbs


class MixtureParams(NamedTuple):
    """Logarithms of weights that sum to 1, (M,), and the parameters of each part."""

    log_weights: Float[Array, "part"]
    parts: tuple[Params, ...]


@dataclass(frozen=True)
class Mixture(StepModel):
    """p(x | past) = sum_m weight_m p_m(x | past), of models of the same tokens (Jelinek and Mercer 1980)."""

    parts: tuple[Model, ...]

    @property
    def in_order(self) -> bool:
        """Whether any part is."""
        return any(is_in_order(part) for part in self.parts)

    def init(self, key: PRNGKey) -> MixtureParams:
        """Equal weights, and each part's own parameters."""
        keys = jax.random.split(key, len(self.parts))
        params = tuple(part.init(k) for part, k in zip(self.parts, keys, strict=True))
        return MixtureParams(jnp.full(len(self.parts), -jnp.log(len(self.parts))), params)

    def init_carry(self, params: MixtureParams, batch_size: int) -> Carry:
        """The initial carries of all parts."""
        return tuple(part.init_carry(p, batch_size) for part, p in self._with(params))

    def update(self, params: MixtureParams, carry: Carry, x: Int[Array, "batch"]) -> Carry:
        """The updated carries of all parts."""
        return tuple(part.update(p, c, x) for (part, p), c in zip(self._with(params), carry, strict=True))

    def carries(self, params: MixtureParams, carry: Carry, xs: TokenBatch) -> Carry:
        """The carries of all parts after each of xs (B, T)."""
        return tuple(part.carries(p, c, xs) for (part, p), c in zip(self._with(params), carry, strict=True))

    def readout(self, params: MixtureParams, carry: Carry) -> LogProbs:
        """The mixed distribution."""
        pairs = zip(self._with(params), carry, strict=True)
        return self._mix(params, [part.readout(p, c) for (part, p), c in pairs])

    def unroll(
        self,
        params: MixtureParams,
        carry: Carry,
        xs: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Float[Array, "batch time vocab"]]:
        """Every part unrolled, then mixed."""
        pairs, mode = zip(self._with(params), carry, strict=True), {"training": training, "key": key}
        found = (part.unroll(p, c, xs, **mode) for (part, p), c in pairs)
        carries, log_probs = zip(*found, strict=True)
        return carries, self._mix(params, log_probs)

    def token_log_probs(
        self,
        params: MixtureParams,
        carry: Carry,
        xs: TokenBatch,
        targets: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """The log-probabilities of the targets under every part, then mixed."""
        pairs, mode = zip(self._with(params), carry, strict=True), {"training": training, "key": key}
        found = (part.token_log_probs(p, c, xs, targets, **mode) for (part, p), c in pairs)
        carries, log_probs = zip(*found, strict=True)
        return carries, self._mix(params, log_probs)

    def _with(self, params: MixtureParams) -> list[tuple[Model, Params]]:
        return list(zip(self.parts, params.parts, strict=True))

    def _mix(self, params: MixtureParams, log_probs: Sequence[Array]) -> Array:
        weighted = [log_weight + each for log_weight, each in zip(params.log_weights, log_probs, strict=True)]
        return jax.nn.logsumexp(jnp.stack(weighted), axis=0)


MOST_EM_STEPS = 1000


def fit_weights(
    log_probs: Float[np.ndarray, "part time"], tolerance: float = 1e-10
) -> Float[np.ndarray, "part"]:
    """Weights, summing to 1, under which held-out tokens are likeliest: EM on ln p_m of each (M, T).

    The likelihood is concave in the weights, so what EM comes to is the maximum; it stops when a step
    gains less than `tolerance` nats a token, or after 1000 steps. Raises ValueError where a token is
    impossible under every part.
    """
    log_probs = np.asarray(log_probs, np.float64)
    best = log_probs.max(axis=0)
    if not log_probs.size or not np.isfinite(best).all():
        raise ValueError("expected held-out tokens, each possible under at least one model")
    probs = np.exp(log_probs - best)
    weights = np.full(len(probs), 1.0 / len(probs))
    before = -np.inf
    for _ in range(MOST_EM_STEPS):
        mixed = weights @ probs
        loss = np.log(mixed).mean()
        if loss - before < tolerance:
            break
        before, weights = loss, weights * (probs / mixed).mean(axis=1)
    return weights / weights.sum()


# Caches

VERY_UNLIKE = -1e30  # and not -inf, of which a row alone would have no softmax


class CacheParams(NamedTuple):
    """The model's parameters; the weight of the cache in (0, 1); of a neural one, how sharply it compares."""

    model: Params
    weight: Float[Array, ""]
    sharpness: Float[Array, ""]


class _Recent(NamedTuple):
    """The last C tokens of each row and the features they were predicted from; `seen` of them are real."""

    tokens: Int[Array, "batch cached"]
    features: Float[Array, "batch cached feature"]
    seen: Int[Array, "batch"]


@dataclass(frozen=True)
class Cache(StepModel):
    """A model beside a cache of the last C tokens, each as often as it came: a unigram cache.

        p(x) = (1 - weight) p_model(x) + weight sum_i s_i [x_i = x] / sum_i s_i,    s_i = 1

    Kuhn and De Mori (1990). While nothing was seen the model is alone. The model has been trained before: a
    training of weight and sharpness reads it as an evaluation does, without its dropout.
    """

    model: Model
    size: int
    vocab_size: int

    @property
    def in_order(self) -> bool:
        """Whether the model is."""
        return is_in_order(self.model)

    def init(self, key: PRNGKey) -> CacheParams:
        """A tenth of the weight for the cache."""
        return CacheParams(self.model.init(key), jnp.array(0.1), jnp.array(1.0))

    def init_carry(self, params: CacheParams, batch_size: int) -> Carry:
        """The model's, and an empty cache."""
        carry = self.model.init_carry(params.model, batch_size)
        width = self._features(params, carry).shape[-1]
        tokens = jnp.zeros((batch_size, self.size), jnp.int32)
        features = jnp.zeros((batch_size, self.size, width))
        return carry, _Recent(tokens, features, jnp.zeros(batch_size, jnp.int32))

    def update(self, params: CacheParams, carry: Carry, x: Int[Array, "batch"]) -> Carry:
        """The token goes into the cache with what it was predicted from."""
        inner, recent = carry
        recent = _Recent(
            jnp.concatenate([recent.tokens[:, 1:], x[:, None]], axis=1),
            jnp.concatenate([recent.features[:, 1:], self._features(params, inner)[:, None]], axis=1),
            jnp.minimum(recent.seen + 1, self.size),
        )
        return self.model.update(params.model, inner, x), recent

    def readout(self, params: CacheParams, carry: Carry) -> LogProbs:
        """The model's distribution mixed with the cache's."""
        inner, recent = carry
        now = self._features(params, inner)[:, None]
        shares = self._shares(params, now, recent.features, recent.seen[:, None])
        rows = jnp.arange(recent.tokens.shape[0])[:, None]
        empty = jnp.zeros((recent.tokens.shape[0], self.vocab_size))
        cached = empty.at[rows, recent.tokens].add(shares[:, 0])
        return self._mix(params, self.model.readout(params.model, inner), cached, recent.seen[:, None])

    def token_log_probs(
        self,
        params: CacheParams,
        carry: Carry,
        xs: TokenBatch,
        targets: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """All steps at once: each looks back at the C tokens before it, by one product."""
        check_key(training, key)
        (inner, recent), time = carry, xs.shape[1]
        now = self._features_of_steps(params, inner, xs)
        before = jnp.concatenate([self._features(params, inner)[:, None], now[:, :-1]], axis=1)
        tokens = jnp.concatenate([recent.tokens, xs], axis=1)
        features = jnp.concatenate([recent.features, before], axis=1)
        # Step t sees places t + 1 ... t + C of the two together, as far as they are filled.
        place, step = jnp.arange(self.size + time), jnp.arange(time)[:, None]
        seen = jnp.minimum(recent.seen[:, None] + 1 + step.T, self.size)
        inside = place[None, None] > (step + self.size)[None] - seen[..., None]
        inside &= (place[None] <= step + self.size)[None]
        shares = self._shares(params, now, features, inside=inside)
        cached = jnp.where(tokens[:, None] == targets[..., None], shares, 0.0).sum(axis=-1)
        last, log_probs = self.model.token_log_probs(params.model, inner, xs, targets)
        mixed = self._mix(params, log_probs, cached, seen)
        kept = _Recent(tokens[:, -self.size :], features[:, -self.size :], seen[:, -1])
        return (last, kept), mixed

    def _features(self, params: CacheParams, carry: Carry) -> Float[Array, "batch feature"]:
        """What the next token is compared by: nothing, here."""
        return jnp.zeros((jax.tree.leaves(carry)[0].shape[0], 1))

    def _features_of_steps(
        self, params: CacheParams, carry: Carry, xs: TokenBatch
    ) -> Float[Array, "batch time feature"]:
        """The same after each of xs."""
        return jnp.zeros((*xs.shape, 1))

    def _shares(
        self,
        params: CacheParams,
        now: Float[Array, "batch time feature"],
        features: Float[Array, "batch cached feature"],
        seen: Int[Array, "batch time"] | None = None,
        inside: Any = None,
    ) -> Float[Array, "batch time cached"]:
        """The share of each cached token, after each step; zero where the cache is not filled."""
        if inside is None:
            inside = jnp.arange(features.shape[1])[None, None] >= features.shape[1] - seen[..., None]
        alike = params.sharpness * jnp.einsum("btf,bcf->btc", now, features)
        return jax.nn.softmax(jnp.where(inside, alike, VERY_UNLIKE), axis=-1) * inside

    def _mix(self, params: CacheParams, log_probs: Array, cached: Array, seen: Int[Array, "*dims"]) -> Array:
        mixed = jnp.logaddexp(jnp.log1p(-params.weight) + log_probs, jnp.log(params.weight) + jnp.log(cached))
        return jnp.where(seen > 0, mixed, log_probs)


@dataclass(frozen=True)
class NeuralCache(Cache):
    """A cache of a model with a hidden state: s_i = exp(sharpness h . h_i), h_i what x_i was predicted from.

    Grave, Joulin and Usunier (2017).
    """

    def _features(self, params: CacheParams, carry: Carry) -> Float[Array, "batch feature"]:
        return hidden(self.model, params.model, carry)

    def _features_of_steps(
        self, params: CacheParams, carry: Carry, xs: TokenBatch
    ) -> Float[Array, "batch time feature"]:
        return hidden_steps(self.model, params.model, carry, xs)


def with_cache(
    model: Model, params: Params, size: int, vocab_size: int, *, neural: bool
) -> tuple[Cache, CacheParams]:
    """The model and its parameters behind a cache whose weight and sharpness are not fitted yet."""
    cache = (NeuralCache if neural else Cache)(model, size, vocab_size)
    return cache, CacheParams(params, jnp.array(0.1), jnp.array(0.3 if neural else 1.0))


FIRST_SHARPNESS, SHARPER = 0.3, 1.5  # of a neural cache: what is tried first, and how much more or less next
MOST_CHANGES = 12  # of it, in one direction


class FittedCache(NamedTuple):
    """A model behind a cache, its parameters, and what was fitted of them."""

    model: Cache
    params: CacheParams
    weight: float
    sharpness: float


def fit_cache(
    model: Model,
    params: Params,
    ids: Int[np.ndarray, "time"],
    size: int,
    vocab_size: int,
    *,
    neural: bool,
) -> FittedCache:
    """The model behind a cache of the last `size` tokens that makes held-out ids (T,) likeliest.

    The weight is fitted by EM, as `fit_weights` does it. The sharpness of a neural cache is made greater, or
    else smaller, by a factor of SHARPER as long as that helps; of another it is 1. neural: see `with_cache`.
    Raises ValueError as `fit_weights` does.
    """
    alone = _scores(model, params, ids)
    cache, start = with_cache(model, params, size, vocab_size, neural=neural)

    def fitted(sharpness: float) -> tuple[float, FittedCache]:
        """The loss with the best weight."""
        half = start._replace(weight=jnp.array(0.5), sharpness=jnp.array(sharpness))
        # Half the cache and half the model: what is not the model's is the cache's.
        cached = 2.0 * np.exp(_scores(cache, half, ids)) - np.exp(alone)
        with np.errstate(divide="ignore"):
            pair = np.array([alone, np.log(np.maximum(cached, 0.0))])
        weight = float(fit_weights(pair)[1])
        loss = -np.logaddexp(np.log1p(-weight) + pair[0], np.log(weight) + pair[1]).mean()
        return loss, FittedCache(cache, half._replace(weight=jnp.array(weight)), weight, sharpness)

    best = first = fitted(FIRST_SHARPNESS if neural else 1.0)
    for factor in (SHARPER, 1.0 / SHARPER) if neural else ():
        for _ in range(MOST_CHANGES):
            found = fitted(best[1].sharpness * factor)
            if not found[0] < best[0]:
                break
            best = found
        if best is not first:
            break
    return best[1]


def _scores(model: Model, params: Params, ids: Int[np.ndarray, "time"]) -> Float[np.ndarray, "time"]:
    return score_stream(model, params, ids).astype(np.float64)

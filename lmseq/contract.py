"""The contract: a sequence model is a step function; everything else is a scan over it.

`update` is the article's h_t = f(x_t, h_{t-1}) and `readout` its prediction of x_{t+1} from h_t
alone. Counts, windows and hidden states differ only in what they carry. Scoring, k-step prediction
and sampling are written over this contract once and serve every model.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.predictions import point, value_log_prob
from lmseq.types import (
    Carry,
    Covariates,
    Element,
    Elements,
    OfValues,
    Params,
    Prediction,
    PRNGKey,
    Stream,
    TokenLogProbs,
)

Predictions = Float[Array, "batch time vocab"] | OfValues


@runtime_checkable
class Model(Protocol):
    """A model of sequences of tokens, x (B,) of ids, or of values, x (B, D).

    Tokens are predicted by log-probabilities (B, V), values by one of `types.OfValues` of (B, D). A model is
    hashable, so that it can be a static argument of `jax.jit`. This is the type that functions ask for;
    `StepModel` is the class to write a model with: it has the last three methods already.
    """

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, a plain pytree."""
        ...

    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """What is known before anything was seen; every leaf has `batch_size` rows."""
        ...

    def update(self, params: Params, carry: Carry, x: Element) -> Carry:
        """h_t = f(x_t, h_{t-1}) for token ids x (B,) or values (B, D)."""
        ...

    def readout(self, params: Params, carry: Carry) -> Prediction:
        """Prediction of the next element, one a row; of `init_carry`, that of the first."""
        ...

    def carries(self, params: Params, carry: Carry, xs: Elements) -> Carry:
        """The carry after each of xs (B, T): every leaf (B, T, ...). Entry t has seen x_1 ... x_t."""
        ...

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Predictions]:
        """Teacher-forced over xs (B, T): prediction t is `readout` after `update` with x_1 ... x_t.

        training: switches on all that only a training step wants: dropout, the products' lower precision, the
        recomputation of activations. Without it the result is deterministic. key: the noise of dropout,
        needed in training by a model that has dropout. Raises ValueError as `check_key` does.
        """
        ...

    def token_log_probs(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        targets: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """As `unroll`, keeping only log P(targets[b, t] | xs[b, :t + 1]), (B, T) in nats.

        Of values P is a density, in their own units.
        """
        ...


@runtime_checkable
class Drawable(Protocol):
    """A model of tokens that can draw the next one without its whole distribution, as counts can.

    Draws follow `readout`, to a bound that the model states. Generation asks for them at temperature 1 and
    without truncation, unless `prepare_draws` gives None; else it draws from `readout`.
    """

    def prepare_draws(self, params: Params) -> Any:
        """What `draw` looks up beside the parameters, a pytree made once on the host."""
        ...

    def draw(
        self, params: Params, tables: Any, carry: Carry, key: PRNGKey, never: tuple[int, ...] = ()
    ) -> tuple[Carry, Int[Array, "batch"], Float[Array, "batch"]]:
        """The carry after a token drawn for each row, the tokens, int32 (B,), and their ln p, float32 (B,).

        ln p is the model's own, that of `token_log_probs`. never: tokens that do not come where anything else
        can: the others' distribution is then given that none of them comes.
        """
        ...


class StepModel(ABC):
    """A model given by four methods: `init`, `init_carry`, `update` and `readout`; the rest are scans.

    Make it a frozen dataclass of its sizes, so that equal models are one static argument of `jax.jit` and
    share their compiled programs; a plain class works too, and each of its objects is compiled for by itself.
    A subclass may compute any of the three scans in a faster way that agrees with the one here. One that
    knows only the last few elements may say how many in `memory`: forecasts then read no more than those.
    One that reads more than the values that it predicts says so in `covariates`. One whose carry keeps
    something of all that it has read is `in_order`: its stream is read from the first token to the last,
    and not by strips that begin with a guess, of which each would wait for the one before.
    """

    memory: ClassVar[int | None] = None
    in_order: ClassVar[bool] = False
    covariates: ClassVar[Covariates] = Covariates()

    @abstractmethod
    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, a plain pytree of arrays."""

    @abstractmethod
    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """The state before the first element; every leaf has `batch_size` rows."""

    @abstractmethod
    def update(self, params: Params, carry: Carry, x: Element) -> Carry:
        """h_t = f(x_t, h_{t-1}) for token ids x (B,) or values (B, D)."""

    @abstractmethod
    def readout(self, params: Params, carry: Carry) -> Prediction:
        """Prediction of the next element, one a row, from the carry alone."""

    def carries(self, params: Params, carry: Carry, xs: Elements) -> Carry:
        """The carry after each of xs (B, T): every leaf (B, T, ...)."""
        return scan_carries(self, params, carry, xs)

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Predictions]:
        """The last carry, and the prediction after each of xs (B, T); there is no noise."""
        check_key(training, key)
        return scan_unroll(self, params, carry, xs)

    def token_log_probs(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        targets: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """The last carry, and the log-probabilities (B, T) of the targets: `unroll`, then `log_prob`."""
        carry, predictions = self.unroll(params, carry, xs, training=training, key=key)
        return carry, log_prob(predictions, targets)


def check_key(training: bool, key: PRNGKey | None, *, has_noise: bool = False) -> None:
    """Raise ValueError for a key outside of training, and for training with noise that has no key."""
    if key is not None and not training:
        raise ValueError(
            "expected training=True with a key, which is the noise of training: give both or none"
        )
    if training and has_noise and key is None:
        raise ValueError("expected a key for the dropout of training: give key=, or a model without dropout")


def scan_unroll(model: Model, params: Params, carry: Carry, xs: Elements) -> tuple[Carry, Predictions]:
    """The definition of `unroll`: a scan of `update` then `readout` over xs (B, T).

    Models may compute it in any faster way that agrees; this is what they must agree with.
    """

    def step(carry: Carry, x: Element) -> tuple[Carry, Prediction]:
        carry = model.update(params, carry, x)
        return carry, model.readout(params, carry)

    carry, predictions = lax.scan(step, carry, jnp.swapaxes(xs, 0, 1))
    return carry, batch_major(predictions)


def scan_carries(model: Model, params: Params, carry: Carry, xs: Elements) -> Carry:
    """The definition of `carries`: what a scan of `update` over xs (B, T) passes through, (B, T, ...)."""

    def step(carry: Carry, x: Element) -> tuple[Carry, Carry]:
        carry = model.update(params, carry, x)
        return carry, carry

    return batch_major(lax.scan(step, carry, jnp.swapaxes(xs, 0, 1))[1])


def unroll_by_carries(model: Model, params: Params, carry: Carry, xs: Elements) -> tuple[Carry, Predictions]:
    """`unroll` from `carries`: all B T predictions are read out at once, for models with small carries."""
    carries, num_rows = model.carries(params, carry, xs), xs.shape[0] * xs.shape[1]
    # Not -1 for the number of rows: a carry may be empty, as that of unigrams is.
    rows = jax.tree.map(lambda leaf: leaf.reshape(num_rows, *leaf.shape[2:]), carries)
    predictions = model.readout(params, rows)
    last = jax.tree.map(lambda leaf: leaf[:, -1], carries)
    return last, jax.tree.map(lambda leaf: leaf.reshape(*xs.shape[:2], *leaf.shape[1:]), predictions)


def batch_major(tree: Carry) -> Carry:
    """Every leaf (T, B, ...) of what a scan collected as (B, T, ...)."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def is_in_order(model: Model) -> bool:
    """Whether a stream is to be read from the first token to the last; not, if the model does not say."""
    return getattr(model, "in_order", False)


def log_prob(prediction: Predictions | Prediction, x: Element | Elements) -> Float[Array, "*dims"]:
    """Natural logarithm of the probability of tokens x (...), or of the joint density of values (..., D).

    Of predicted quantiles, which have no density, minus the pinball loss: `predictions.value_log_prob`.
    Covariates that stand behind the values of x do not count.
    """
    if isinstance(prediction, OfValues):
        return value_log_prob(prediction, x[..., : point(prediction).shape[-1]])
    return gather_log_probs(prediction, x)


# Covariates


def covariates_of(model: Model) -> Covariates:
    """What a model of values reads beside them; nothing, if it does not say."""
    return getattr(model, "covariates", Covariates())


def with_covariates(
    values: Float[Array, "*dims feature"], row: Float[Array, "*dims covariate"] | None
) -> Float[Array, "*dims input"]:
    """An element from values (..., D) and what stands behind them, (..., C); the values, if nothing does."""
    return values if row is None or not row.shape[-1] else jnp.concatenate([values, row], axis=-1)


def predict_directly(
    model: Model, params: Params, carry: Carry, ahead: Float[Array, "batch lead covariate"] | None = None
) -> OfValues:
    """The next K values (B, K, D) of a model with `readout_direct`, given what it reads of what is known.

    ahead: (B, L, C), the covariates of the newest element and of those that follow, of which the first are
    known ahead. The k-th value is predicted from the first k rows alone, so that L may be less than K.
    """
    num_known = covariates_of(model).known
    if not num_known:
        return model.readout_direct(params, carry)
    return model.readout_direct(params, carry, ahead[..., :num_known])


def num_symbols(model: Model, params: Params) -> int:
    """V of a model of tokens; nothing is computed."""
    shape = jax.eval_shape(lambda params: model.readout(params, model.init_carry(params, 1)), params)
    return shape.shape[1]


def as_stream(xs: Stream) -> Stream:
    """A stream on the device: token ids (T,) as int32, values (T, D) as float32."""
    xs = jnp.asarray(xs)
    return xs.astype(jnp.float32 if jnp.issubdtype(xs.dtype, jnp.floating) else jnp.int32)


def gather_log_probs(
    log_probs: Float[Array, "*dims vocab"], tokens: Int[Array, "*dims"]
) -> Float[Array, "*dims"]:
    """Pick from each distribution (..., V) the log-probability of its token (...)."""
    return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def first_carry(model: Model, params: Params, rows: Array) -> Carry:
    """`init_carry` of as many rows as an array has, also where JAX traces for any number of them."""
    one = model.init_carry(params, 1)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows.shape[0], *leaf.shape[1:])), one)


def repeat_carry(carry: Carry, times: int) -> Carry:
    """Each row of every leaf `times` times in a row: (B, ...) becomes (B * times, ...)."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), carry)

"""`bind` puts a Flax Linen module under the contract of `lmseq.contract`.

A module declares its parameters in `setup` and has the methods of the contract without parameters; binding
makes the parameters explicit. Three must be written: init_carry, update and readout. The others have
defaults, which a module replaces by what is faster. This folder is the only one that knows Flax.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from lmseq.contract import Model, Predictions, check_key, log_prob, scan_carries, scan_unroll
from lmseq.types import (
    Carry,
    Covariates,
    Element,
    Elements,
    OfValues,
    Params,
    Prediction,
    PRNGKey,
    TokenLogProbs,
)


class SequenceModule(nn.Module):
    """A Linen module that can be bound: write `setup`, `init_carry`, `update` and `readout`.

    Parameters are drawn by a call of `first_prediction`, and Flax draws only what is reached: a module whose
    `readout` of the initial carry does not touch every parameter (those of `update`, where they are not
    declared by `self.param` in its own `setup` but by submodules) must write a `first_prediction` that does.
    """

    def init_carry(self, batch_size: int) -> Carry:
        """The state before the first element."""
        raise NotImplementedError

    def update(self, carry: Carry, x: Element) -> Carry:
        """h_t = f(x_t, h_{t-1})."""
        raise NotImplementedError

    def readout(self, carry: Carry) -> Prediction:
        """Prediction of the next element."""
        raise NotImplementedError

    def first_prediction(self) -> Prediction:
        """Prediction of the first element of one sequence; it must reach every parameter."""
        return self.readout(self.init_carry(1))

    def carries(self, carry: Carry, xs: Elements) -> Carry:
        """The carry after each of xs (B, T): a scan of `update`."""
        return scan_carries(*self._unbound(), carry, xs)

    def unroll(
        self, carry: Carry, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[Carry, Predictions]:
        """Teacher-forced over (B, T): a scan of `update` then `readout`, without noise."""
        check_key(training, key)
        return scan_unroll(*self._unbound(), carry, xs)

    def token_log_probs(
        self,
        carry: Carry,
        xs: Elements,
        targets: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """`unroll`, then the log-probabilities of the targets."""
        carry, predictions = self.unroll(carry, xs, training=training, key=key)
        return carry, log_prob(predictions, targets)

    def with_dropout(self, rate: float | Float[Array, ""]) -> "SequenceModule":
        """The same module with another rate as its `dropout`, which may be traced."""
        return self.clone(dropout=rate)

    def _unbound(self) -> "tuple[BoundModel, Params]":
        """This module and its parameters apart, as a JAX loop must not run through a live Flax module."""
        module, variables = self.unbind()
        return BoundModel(module), variables.get("params", {})


class Trace(NamedTuple):
    """A training pass over windows: what the loss and what is minimised beside it are made of.

    log_probs: of the targets. outputs: the hidden state after each step, with the dropout that the readout
    sees; raw: without. spread: the mean over the vocabulary of the log-probabilities, less the target's.
    """

    log_probs: TokenLogProbs
    outputs: Float[Array, "batch time hidden"]
    raw: Float[Array, "batch time hidden"]
    spread: TokenLogProbs


class HiddenModule(SequenceModule):
    """A module whose predictions are made of one row of numbers, its hidden state."""

    def hidden(self, carry: Carry) -> Float[Array, "batch hidden"]:
        """What the prediction of the next element is made of."""
        raise NotImplementedError

    def hidden_steps(
        self, carry: Carry, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[Carry, Float[Array, "batch time hidden"]]:
        """The last carry, and `hidden` after each of xs (B, T): (B, T, H), without the carries between."""
        raise NotImplementedError

    def token_trace(
        self, carry: Carry, xs: Elements, targets: Elements, *, key: PRNGKey | None = None
    ) -> tuple[Carry, Trace]:
        """The last carry, and the trace of a training pass over tokens xs (B, T) and their targets."""
        raise NotImplementedError


@dataclass(frozen=True)
class BoundModel:
    """A Linen module as a `Model`: equal and hashed by its fields, so jit caches by them.

    init_range: every initial parameter is uniform between minus this and this; 0: as the module draws them.
    """

    module: SequenceModule
    init_range: float = 0.0

    @property
    def memory(self) -> int | None:
        """How many of the last elements are all that the carry knows; None where there is no such number."""
        return getattr(self.module, "memory", None)

    @property
    def covariates(self) -> Covariates:
        """What is read beside the values that are predicted."""
        return getattr(self.module, "covariates", Covariates())

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, a plain dict of float32 arrays."""
        if not self.init_range:
            return self.module.init(key, method="first_prediction").get("params", {})

        def uniform(leaf: jax.ShapeDtypeStruct, key: PRNGKey) -> Array:
            return jax.random.uniform(key, leaf.shape, leaf.dtype, -self.init_range, self.init_range)

        leaves, tree = jax.tree.flatten(jax.eval_shape(replace(self, init_range=0.0).init, key))
        keys = jax.random.split(key, max(len(leaves), 1))
        return jax.tree.unflatten(tree, map(uniform, leaves, keys))

    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """The state before the first element; every leaf has `batch_size` rows."""
        return self.module.apply({"params": params}, batch_size, method="init_carry")

    def update(self, params: Params, carry: Carry, x: Element) -> Carry:
        """h_t = f(x_t, h_{t-1}) for token ids x (B,) or values (B, D)."""
        return self.module.apply({"params": params}, carry, x, method="update")

    def readout(self, params: Params, carry: Carry) -> Prediction:
        """Prediction of the next element, one a row, from the carry alone."""
        return self.module.apply({"params": params}, carry, method="readout")

    def carries(self, params: Params, carry: Carry, xs: Elements) -> Carry:
        """The carry after each of xs (B, T): every leaf (B, T, ...)."""
        return self.module.apply({"params": params}, carry, xs, method="carries")

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Predictions]:
        """Teacher-forced over xs (B, T): equals the scan of `update` then `readout`."""
        mode = {"training": training, "key": key}
        return self.module.apply({"params": params}, carry, xs, **mode, method="unroll")

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
        """As `unroll`, keeping only the log-probabilities (B, T) of the targets."""
        mode = {"training": training, "key": key}
        return self.module.apply({"params": params}, carry, xs, targets, **mode, method="token_log_probs")


def has_hidden(model: Model) -> bool:
    """Whether a model has a hidden state, as `HiddenModule` says."""
    return isinstance(model, BoundModel) and isinstance(model.module, HiddenModule)


def hidden(model: BoundModel, params: Params, carry: Carry) -> Float[Array, "batch hidden"]:
    """The hidden state of a model that has one, (B, H)."""
    return model.module.apply({"params": params}, carry, method="hidden")


def hidden_steps(
    model: BoundModel, params: Params, carry: Carry, xs: Elements
) -> Float[Array, "batch time hidden"]:
    """The hidden state after each of xs (B, T): (B, T, H)."""
    return model.module.apply({"params": params}, carry, xs, method="hidden_steps")[1]


def token_trace(
    model: BoundModel,
    params: Params,
    carry: Carry,
    xs: Elements,
    targets: Elements,
    key: PRNGKey | None = None,
) -> tuple[Carry, Trace]:
    """The last carry, and the trace of a training pass of a model of tokens that has a hidden state."""
    return model.module.apply({"params": params}, carry, xs, targets, key=key, method="token_trace")


class BoundDirectModel(BoundModel):
    """A Linen module that also predicts several steps at once."""

    def readout_direct(
        self, params: Params, carry: Carry, known: Float[Array, "batch lead covariate"] | None = None
    ) -> OfValues:
        """The next K elements without feedback, a prediction of (B, K, D): from the carry, and what is known.

        known: covariates known ahead of the next L steps, (B, L, C), of a module that reads such.
        """
        beside = () if known is None else (known,)
        return self.module.apply({"params": params}, carry, *beside, method="readout_direct")


def bind(module: SequenceModule, init_range: float = 0.0) -> BoundModel:
    """The module under the contract."""
    return BoundModel(module, init_range)


def bind_direct(module: SequenceModule) -> BoundDirectModel:
    """A module with a `readout_direct` under the contract."""
    return BoundDirectModel(module)


def count_parameters(params: Params) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

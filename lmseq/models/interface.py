"""`bind` puts a Flax Linen module under the contract of `lmseq.contract`.

A module declares its parameters in `setup` and has methods init_carry, update, readout, carries, unroll
and (optionally its own) token_log_probs that take no parameters; binding makes the parameters explicit.
This folder is the only one that knows Flax.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax

from lmseq.contract import Predictions, log_prob
from lmseq.types import Carry, Element, Elements, Normal, Params, Prediction, PRNGKey, TokenLogProbs


class SequenceModule(nn.Module):
    """What a Linen module must have to be bound; `token_log_probs` has a default."""

    def init_carry(self, batch_size: int) -> Carry:
        """What is known before anything was seen."""
        raise NotImplementedError

    def update(self, carry: Carry, x: Element) -> Carry:
        """h_t = f(x_t, h_{t-1})."""
        raise NotImplementedError

    def readout(self, carry: Carry) -> Prediction:
        """Prediction of the next element."""
        raise NotImplementedError

    def first_prediction(self) -> Prediction:
        """Of the first element of one sequence; it passes through all that has parameters."""
        return self.readout(self.init_carry(1))

    def carries(self, carry: Carry, xs: Elements) -> Carry:
        """The carry after each of xs (B, T)."""
        raise NotImplementedError

    def unroll(self, carry: Carry, xs: Elements, key: PRNGKey | None = None) -> tuple[Carry, Predictions]:
        """Teacher-forced over (B, T)."""
        raise NotImplementedError

    def token_log_probs(
        self, carry: Carry, xs: Elements, targets: Elements, key: PRNGKey | None = None
    ) -> tuple[Carry, TokenLogProbs]:
        """`unroll`, then a gather."""
        carry, predictions = self.unroll(carry, xs, key)
        return carry, log_prob(predictions, targets)


@dataclass(frozen=True)
class BoundModel:
    """A Linen module as a `Model`: equal and hashed by the module's fields, so jit caches by them."""

    module: SequenceModule

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, a plain dict of float32 arrays."""
        return self.module.init(key, method="first_prediction")["params"]

    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """What is known before anything was seen; every leaf has `batch_size` rows."""
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
        self, params: Params, carry: Carry, xs: Elements, key: PRNGKey | None = None
    ) -> tuple[Carry, Predictions]:
        """Teacher-forced over xs (B, T): equals the scan of `update` then `readout`."""
        return self.module.apply({"params": params}, carry, xs, key, method="unroll")

    def token_log_probs(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        targets: Elements,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """As `unroll`, keeping only the log-probabilities (B, T) of the targets."""
        return self.module.apply({"params": params}, carry, xs, targets, key, method="token_log_probs")


class BoundDirectModel(BoundModel):
    """A Linen module that also predicts several steps at once."""

    def readout_direct(self, params: Params, carry: Carry) -> Normal:
        """The next K elements from the carry alone, without feedback: a `Normal` of (B, K, D)."""
        return self.module.apply({"params": params}, carry, method="readout_direct")


def bind(module: SequenceModule) -> BoundModel:
    """The module under the contract."""
    return BoundModel(module)


def bind_direct(module: SequenceModule) -> BoundDirectModel:
    """A module with a `readout_direct` under the contract."""
    return BoundDirectModel(module)


def count_parameters(params: Params) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

"""`bind` puts a Flax Linen module under the contract of `lmseq.contract`.

A module declares its parameters in `setup` and has methods init_carry, update, readout, unroll and
(optionally its own) token_log_probs that take no parameters; binding makes the parameters explicit.
This folder is the only one that knows Flax.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from lmseq.contract import gather_log_probs
from lmseq.types import Carry, LogProbs, Params, PRNGKey, TokenBatch, TokenLogProbs


class SequenceModule(nn.Module):
    """What a Linen module must have to be bound; `token_log_probs` has a default."""

    def init_carry(self, batch_size: int) -> Carry:
        """What is known before anything was seen."""
        raise NotImplementedError

    def update(self, carry: Carry, x: Int[Array, "batch"]) -> Carry:
        """h_t = f(x_t, h_{t-1})."""
        raise NotImplementedError

    def readout(self, carry: Carry) -> LogProbs:
        """Log-probabilities (B, V) of the next token."""
        raise NotImplementedError

    def unroll(
        self, carry: Carry, xs: TokenBatch, key: PRNGKey | None = None
    ) -> tuple[Carry, Float[Array, "batch time vocab"]]:
        """Teacher-forced over (B, T)."""
        raise NotImplementedError

    def token_log_probs(
        self, carry: Carry, xs: TokenBatch, targets: TokenBatch, key: PRNGKey | None = None
    ) -> tuple[Carry, TokenLogProbs]:
        """`unroll`, then a gather."""
        carry, log_probs = self.unroll(carry, xs, key)
        return carry, gather_log_probs(log_probs, targets)


@dataclass(frozen=True)
class BoundModel:
    """A Linen module as a `Model`: equal and hashed by the module's fields, so jit caches by them."""

    module: SequenceModule

    def init(self, key: PRNGKey) -> Params:
        """Draw parameters, a plain dict of float32 arrays."""
        return self.module.init(key, 1, method="init_carry")["params"]

    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """What is known before anything was seen; every leaf has `batch_size` rows."""
        return self.module.apply({"params": params}, batch_size, method="init_carry")

    def update(self, params: Params, carry: Carry, x: Int[Array, "batch"]) -> Carry:
        """h_t = f(x_t, h_{t-1}) for token ids x (B,)."""
        return self.module.apply({"params": params}, carry, x, method="update")

    def readout(self, params: Params, carry: Carry) -> LogProbs:
        """Log-probabilities (B, V) of the next token, from the carry alone."""
        return self.module.apply({"params": params}, carry, method="readout")

    def unroll(
        self, params: Params, carry: Carry, xs: TokenBatch, key: PRNGKey | None = None
    ) -> tuple[Carry, Float[Array, "batch time vocab"]]:
        """Teacher-forced over xs (B, T): equals the scan of `update` then `readout`."""
        return self.module.apply({"params": params}, carry, xs, key, method="unroll")

    def token_log_probs(
        self,
        params: Params,
        carry: Carry,
        xs: TokenBatch,
        targets: TokenBatch,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """As `unroll`, keeping only the log-probabilities (B, T) of the targets."""
        return self.module.apply({"params": params}, carry, xs, targets, key, method="token_log_probs")


def bind(module: SequenceModule) -> BoundModel:
    """The module under the contract."""
    return BoundModel(module)


def count_parameters(params: Params) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

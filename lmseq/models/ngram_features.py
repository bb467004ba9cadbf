"""Vectors of the last n-grams beside a net's hidden state: what counts know, learned with the net."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmseq.contract import Predictions, check_key
from lmseq.layers import Precision, affine, drop, mean_minus_target, rows_of
from lmseq.models.candidates import target_log_probs
from lmseq.models.interface import HiddenModule, Trace
from lmseq.models.noisy import Rate, any_dropout
from lmseq.models.recurrent import RecurrentLanguageModel
from lmseq.models.shifting import all_shifted, last_shifted, shifted
from lmseq.models.stack import MixerLanguageModel
from lmseq.noise import NGRAMS
from lmseq.types import Carry, Prediction, PRNGKey, TokenBatch, TokenLogProbs


class NgramCarry(NamedTuple):
    """The net's carry; and the last N - 1 tokens, oldest first, vocab_size where nothing came yet."""

    net: Carry
    seen: Int[Array, "batch context"]


def context_rows(seen: Int[Array, "*dims context"], num_rows: int) -> Int[Array, "*dims context"]:
    """Rows of a table for the last one, two, ... and all tokens seen (..., N - 1), the newest last.

    int32 in [0, num_rows), by a hash of 32 bits: MurmurHash3's finaliser (Appleby 2011) after each token.
    Contexts of any length may share a row.
    """
    hashed, rows = jnp.zeros(seen.shape[:-1], jnp.uint32), []
    for age in range(1, seen.shape[-1] + 1):
        hashed ^= seen[..., -age].astype(jnp.uint32) + 1
        hashed = (hashed ^ hashed >> 16) * jnp.uint32(0x85EBCA6B)
        hashed = (hashed ^ hashed >> 13) * jnp.uint32(0xC2B2AE35)
        hashed ^= hashed >> 16
        rows.append((hashed % jnp.uint32(num_rows)).astype(jnp.int32))
    return jnp.stack(rows, axis=-1)


class NgramFeatureModel(HiddenModule):
    """A net whose softmax sees beside its hidden state h a vector for each of the last n-grams:

        P(x_{t+1} | x_1 ... x_t) = softmax([h_t, g_t] W + b)
        g_t = sum over n = 1 ... N - 1 of E[row(x_{t-n+1} ... x_t)]

    The direct connections of Mikolov et al. (2011), whose maximum-entropy features of n-grams are trained
    with a net; here a feature is a row of D numbers in place of one of V. Contexts of all lengths share one
    table of R rows by hashing. Rows begin at zero, unless all parameters are drawn from `init_range`: of C
    contexts met in training, one that was not met adds nothing where no other has its row, with probability
    near exp(-C / R). In training the vectors of whole contexts are dropped at a rate, each at each step by
    itself: so the net learns to do without the long ones, which a text to come lacks more often.
    """

    net: RecurrentLanguageModel | MixerLanguageModel
    order: int
    num_rows: int
    size: int
    dropout: Rate = 0.0

    def setup(self) -> None:
        """Declare the parameters beside the net's."""
        vocab_size = self.net.vocab_size
        self.rows = self.param("ngram_rows", nn.initializers.zeros, (self.num_rows, self.size))
        kernel = nn.initializers.lecun_normal()
        self.kernel = self.param("ngram_kernel", kernel, (self.size, vocab_size))

    def init_carry(self, batch_size: int) -> NgramCarry:
        """The net's, and no token."""
        seen = jnp.full((batch_size, self.order - 1), self.net.vocab_size, jnp.int32)
        return NgramCarry(self.net.init_carry(batch_size), seen)

    def update(self, carry: NgramCarry, x: Int[Array, "batch"]) -> NgramCarry:
        """The net's step; the token joins those seen."""
        return NgramCarry(self.net.update(carry.net, x), shifted(carry.seen, x))

    def carries(self, carry: NgramCarry, xs: TokenBatch) -> NgramCarry:
        """The net's after each of xs, and all windows of tokens at once."""
        return NgramCarry(self.net.carries(carry.net, xs), all_shifted(carry.seen, xs))

    def hidden(self, carry: NgramCarry) -> Float[Array, "*dims hidden"]:
        """The net's hidden state, and behind it the sum of the vectors."""
        return jnp.concatenate([self.net.hidden(carry.net), self._vectors(carry.seen)], axis=-1)

    def readout(self, carry: NgramCarry) -> Prediction:
        """Log-softmax of an affine map of both."""
        return self._predict(self.hidden(carry))

    def hidden_steps(
        self, carry: NgramCarry, xs: TokenBatch, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[NgramCarry, Float[Array, "batch time hidden"]]:
        """The last carry, and `hidden` after every step."""
        self._check_key(training, key)
        last, hidden = self.net.hidden_steps(carry.net, xs, training=training, key=key)
        return self._beside(carry, last, hidden, xs, key)

    def unroll(
        self, carry: NgramCarry, xs: TokenBatch, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[NgramCarry, Predictions]:
        """Predictions after every step."""
        carry, hidden = self.hidden_steps(carry, xs, training=training, key=key)
        return carry, self._predict(hidden)

    def token_log_probs(
        self,
        carry: NgramCarry,
        xs: TokenBatch,
        targets: TokenBatch,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[NgramCarry, TokenLogProbs]:
        """The targets' entries of `unroll`, whose derivative holds no second (B, T, V)."""
        carry, hidden = self.hidden_steps(carry, xs, training=training, key=key)
        return carry, self._of_targets(hidden, targets, training, key)

    def token_trace(
        self, carry: NgramCarry, xs: TokenBatch, targets: TokenBatch, *, key: PRNGKey | None = None
    ) -> tuple[NgramCarry, Trace]:
        """As `token_log_probs` in training; outputs are those of the net."""
        self._check_key(True, key)
        last, trace = self.net.token_trace(carry.net, xs, targets, key=key)
        carry, hidden = self._beside(carry, last, trace.outputs, xs, key)
        log_probs = self._of_targets(hidden, targets, True, key)
        spread = mean_minus_target(self._features(hidden), *self._head(), targets)
        return carry, trace._replace(log_probs=log_probs, spread=spread)

    def with_dropout(self, rate: Rate) -> "NgramFeatureModel":
        """With another rate for the outputs of the net's layers."""
        return self.clone(net=self.net.with_dropout(rate))

    def _check_key(self, training: bool, key: PRNGKey | None) -> None:
        check_key(training, key, has_noise=any_dropout(self.dropout))

    def _beside(
        self,
        carry: NgramCarry,
        last: Carry,
        hidden: Float[Array, "batch time hidden"],
        xs: TokenBatch,
        key: PRNGKey | None,
    ) -> tuple[NgramCarry, Float[Array, "batch time joined"]]:
        """The last carry, and the hidden states of the net over xs with the vectors behind them."""
        vectors = self._vectors(all_shifted(carry.seen, xs), key)
        return NgramCarry(last, last_shifted(carry.seen, xs)), jnp.concatenate([hidden, vectors], axis=-1)

    def _vectors(
        self, seen: Int[Array, "*dims context"], key: PRNGKey | None = None
    ) -> Float[Array, "*dims size"]:
        """g: the sum of the contexts' vectors, of which a key drops some."""
        found = rows_of(self.rows, context_rows(seen, self.num_rows))
        if key is not None:
            found = drop(found, self.dropout, jax.random.fold_in(key, NGRAMS), (*found.shape[:-1], 1))
        return jnp.sum(found, axis=-2)

    def _features(
        self, hidden: Float[Array, "*dims joined"], precision: Precision = "float32"
    ) -> Float[Array, "*dims feature"]:
        """What the kernel of `_head` multiplies."""
        own, vectors = jnp.split(hidden, [hidden.shape[-1] - self.size], axis=-1)
        return jnp.concatenate([self.net.projected(own, precision), vectors], axis=-1)

    def _head(self) -> tuple[Float[Array, "feature vocab"], Float[Array, "vocab"]]:
        """W and b."""
        kernel, bias = self.net.head()
        return jnp.concatenate([kernel, self.kernel]), bias

    def _predict(self, hidden: Float[Array, "*dims joined"]) -> Float[Array, "*dims vocab"]:
        return jax.nn.log_softmax(affine(self._features(hidden), *self._head()))

    def _of_targets(
        self,
        hidden: Float[Array, "*dims joined"],
        targets: Int[Array, "*dims"],
        training: bool,
        key: PRNGKey | None,
    ) -> Float[Array, "*dims"]:
        precision = self.net.precision if training else "float32"
        how = precision, self.net.sampled_softmax, key
        return target_log_probs(self._features(hidden, precision), *self._head(), targets, *how)

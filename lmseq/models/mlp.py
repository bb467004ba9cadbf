"""The neural n-gram: a perceptron over the last tau embedded tokens (Bengio et al. 2003)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmseq import recurrence
from lmseq.models.interface import SequenceModule
from lmseq.types import LogProbs, PRNGKey, TokenBatch

Window = Int[Array, "batch window"]


class MarkovLanguageModel(SequenceModule):
    """log P(x_{t+1} | x_t ... x_{t-tau+1}); the carry is that window of ids, oldest first, (B, tau).

    Before tau tokens were seen the window is filled up with a padding id, V, whose embedding is
    learned like any other. num_layers tanh layers of hidden_size units stand between the concatenated
    embeddings and the softmax; dropout acts on their outputs.
    """

    vocab_size: int
    tau: int
    hidden_size: int
    num_layers: int = 1
    embedding_size: int = 64
    dropout: float = 0.0

    def setup(self) -> None:
        """Declare the parameters."""
        kernel = nn.initializers.lecun_normal()
        scale = nn.initializers.normal(self.embedding_size**-0.5)
        self.embedding = self.param("embedding", scale, (self.vocab_size + 1, self.embedding_size))
        inputs = [self.tau * self.embedding_size] + [self.hidden_size] * (self.num_layers - 1)
        self.kernels = [
            self.param(f"kernel_{i}", kernel, (width, self.hidden_size)) for i, width in enumerate(inputs)
        ]
        self.biases = [
            self.param(f"bias_{i}", nn.initializers.zeros, (self.hidden_size,))
            for i in range(self.num_layers)
        ]
        self.output_kernel = self.param("output_kernel", kernel, (self.hidden_size, self.vocab_size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

    def init_carry(self, batch_size: int) -> Window:
        """A window of padding."""
        return jnp.full((batch_size, self.tau), self.vocab_size, jnp.int32)

    def update(self, carry: Window, x: Int[Array, "batch"]) -> Window:
        """Shift the newest token in and the oldest out."""
        return jnp.concatenate([carry[:, 1:], x[:, None]], axis=1)

    def _predict(
        self, windows: Int[Array, "*dims window"], key: PRNGKey | None = None
    ) -> Float[Array, "*dims vocab"]:
        """Log-softmax of the perceptron's output for windows of ids (..., tau)."""
        hidden = recurrence.lookup(self.embedding, windows)
        hidden = hidden.reshape(*windows.shape[:-1], self.tau * self.embedding_size)
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            hidden = jnp.tanh(recurrence.affine(hidden, kernel, bias))
            if key is not None and self.dropout:
                mask_key = jax.random.fold_in(key, layer)
                kept = jax.random.bernoulli(mask_key, 1.0 - self.dropout, hidden.shape)
                hidden = jnp.where(kept, hidden / (1.0 - self.dropout), 0.0)
        return jax.nn.log_softmax(recurrence.affine(hidden, self.output_kernel, self.output_bias))

    def readout(self, carry: Window) -> LogProbs:
        """The prediction for one window a row."""
        return self._predict(carry)

    def unroll(
        self, carry: Window, xs: TokenBatch, key: PRNGKey | None = None
    ) -> tuple[Window, Float[Array, "batch time vocab"]]:
        """All B T windows at once, one batched product a layer.

        carry  a b c     windows of tau = 3   b c | d
        xs     d e f                          c | d e
                                                | d e f
        """
        stream = jnp.concatenate([carry, xs], axis=1)
        ends = 1 + jnp.arange(xs.shape[1])
        windows = stream[:, ends[:, None] + jnp.arange(self.tau)[None]]
        return stream[:, xs.shape[1] :], self._predict(windows, key)

"""A stack of recurrent layers between an embedding and a softmax (Mikolov et al. 2010)."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmseq import recurrence
from lmseq.models.interface import SequenceModule
from lmseq.recurrence import NUM_GATES, CellKind, LayerState, Recurrent
from lmseq.types import LogProbs, PRNGKey, TokenBatch

DropoutKind = Literal["fresh", "variational"]
Carry = tuple[LayerState, ...]


class RecurrentLanguageModel(SequenceModule):
    """tanh RNN, GRU, LSTM, minGRU or minLSTM layers; the carry is a tuple of their states.

    embedding_size 0 feeds tokens one-hot, which is a lookup in the first layer's input weights.
    tie_embeddings reads out through the transposed embedding (Press and Wolf 2017) and needs
    embedding_size == hidden_size. Dropout acts on the outputs of every layer, between layers and
    before the readout (Zaremba et al. 2014): a fresh mask at each step, or one mask for all steps of
    a call (variational; Gal and Ghahramani 2016).
    """

    vocab_size: int
    cell: CellKind
    hidden_size: int
    num_layers: int = 1
    embedding_size: int = 0
    tie_embeddings: bool = False
    dropout: float = 0.0
    dropout_kind: DropoutKind = "fresh"

    def setup(self) -> None:
        """Declare the parameters: packed kernels, one row of gates a layer."""
        kernel = nn.initializers.lecun_normal()
        gates = NUM_GATES[self.cell] * self.hidden_size
        if self.embedding_size:
            scale = nn.initializers.normal(self.embedding_size**-0.5)
            self.embedding = self.param("embedding", scale, (self.vocab_size, self.embedding_size))
        inputs = [self.embedding_size or self.vocab_size] + [self.hidden_size] * (self.num_layers - 1)
        self.input_kernels = [
            self.param(f"input_kernel_{i}", kernel, (width, gates)) for i, width in enumerate(inputs)
        ]
        self.input_biases = [
            self.param(f"input_bias_{i}", self._init_bias, (gates,)) for i in range(self.num_layers)
        ]
        self.recurrent = [self._declare_recurrent(i, gates) for i in range(self.num_layers)]
        if not self.tie_embeddings:
            self.output_kernel = self.param("output_kernel", kernel, (self.hidden_size, self.vocab_size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

    def _init_bias(self, key: PRNGKey, shape: tuple[int, ...]) -> Float[Array, "gates"]:
        """Zeros, but a forget gate that starts open where the cell has one (packed i, f, g, o)."""
        bias = jnp.zeros(shape)
        if self.cell == "lstm":
            bias = bias.at[self.hidden_size : 2 * self.hidden_size].set(1.0)
        return bias

    def _declare_recurrent(self, layer: int, gates: int) -> Recurrent | None:
        """The weights inside the loop; the linear recurrences have none."""
        if self.cell in ("mingru", "minlstm"):
            return None
        # One orthogonal block a gate: powers of it neither explode nor vanish (Saxe et al. 2014).
        block = nn.initializers.orthogonal()

        def blocks(key: PRNGKey, shape: tuple[int, int]) -> Float[Array, "hidden gates"]:
            draw = partial(block, shape=(self.hidden_size,) * 2)
            by_gate = jax.vmap(draw)(jax.random.split(key, NUM_GATES[self.cell]))
            return jnp.swapaxes(by_gate, 0, 1).reshape(shape)

        weights = self.param(f"recurrent_kernel_{layer}", blocks, (self.hidden_size, gates))
        bias = None
        if self.cell == "gru":
            bias = self.param(f"recurrent_bias_{layer}", nn.initializers.zeros, (self.hidden_size,))
        return Recurrent(weights, bias)

    def init_carry(self, batch_size: int) -> Carry:
        """The zero state of every layer."""
        return tuple(
            recurrence.init_state(self.cell, batch_size, self.hidden_size) for _ in range(self.num_layers)
        )

    def _project_tokens(self, ids: Int[Array, "*dims"]) -> Float[Array, "*dims gates"]:
        """The first layer's projected inputs x W + b for token ids (...): (..., G * H)."""
        kernel, bias = self.input_kernels[0], self.input_biases[0]
        if not self.embedding_size:
            return recurrence.lookup(kernel + bias[None], ids)
        if self.vocab_size <= ids.size:
            # Projecting the whole table once is less work than projecting every token.
            return recurrence.lookup(recurrence.affine(self.embedding, kernel, bias), ids)
        return recurrence.affine(self.embedding[ids], kernel, bias)

    def _project(self, layer: int, xs: Float[Array, "*dims hidden"]) -> Float[Array, "*dims gates"]:
        return recurrence.affine(xs, self.input_kernels[layer], self.input_biases[layer])

    def update(self, carry: Carry, x: Int[Array, "batch"]) -> Carry:
        """One step of every layer, from the bottom up."""
        projected, states = self._project_tokens(x), []
        for layer, state in enumerate(carry):
            if layer:
                projected = self._project(layer, recurrence.output(states[-1]))
            states.append(recurrence.cell_step(self.cell, self.recurrent[layer], state, projected))
        return tuple(states)

    def _log_softmax(self, hidden: Float[Array, "*dims hidden"]) -> Float[Array, "*dims vocab"]:
        kernel = self.embedding.T if self.tie_embeddings else self.output_kernel
        return jax.nn.log_softmax(recurrence.affine(hidden, kernel, self.output_bias))

    def readout(self, carry: Carry) -> LogProbs:
        """Log-softmax of an affine map of the top layer's output."""
        return self._log_softmax(recurrence.output(carry[-1]))

    def unroll(
        self, carry: Carry, xs: TokenBatch, key: PRNGKey | None = None
    ) -> tuple[Carry, Float[Array, "batch time vocab"]]:
        """Layer by layer over all steps: every product but the recurrent one is over (B T)."""
        projected, states = self._project_tokens(xs), []
        for layer, state in enumerate(carry):
            if layer:
                projected = self._project(layer, outputs)
            weights = self.recurrent[layer]
            state, outputs = recurrence.unroll_layer(self.cell, weights, state, projected)
            outputs = self._drop(outputs, None if key is None else jax.random.fold_in(key, layer))
            states.append(state)
        return tuple(states), self._log_softmax(outputs)

    def _drop(
        self, outputs: Float[Array, "batch time hidden"], key: PRNGKey | None
    ) -> Float[Array, "batch time hidden"]:
        """Inverted dropout; without a key, or at rate 0, the outputs as they are."""
        if key is None or not self.dropout:
            return outputs
        batch, time, hidden = outputs.shape
        steps = 1 if self.dropout_kind == "variational" else time
        kept = jax.random.bernoulli(key, 1.0 - self.dropout, (batch, steps, hidden))
        return jnp.where(kept, outputs / (1.0 - self.dropout), 0.0)

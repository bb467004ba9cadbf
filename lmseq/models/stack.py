"""Stacks of mixers in blocks: between an embedding and a softmax, or between values and a value head.

The carry holds each layer's, and the top layer's output, from which the next element is predicted.
"""

from functools import partial
from itertools import groupby
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.contract import Predictions, check_key
from lmseq.layers import Precision, affine, lookup, mean_minus_target
from lmseq.mixers.block import Block
from lmseq.mixers.mixer import Rows, rms_norm
from lmseq.models.candidates import target_log_probs
from lmseq.models.heads import HeadKind, ValueHead
from lmseq.models.interface import HiddenModule, Trace
from lmseq.models.noisy import Rate, Read, any_dropout, reader
from lmseq.models.pieces import DropoutKind, in_pieces
from lmseq.types import Carry, Element, Elements, OfValues, Params, Prediction, PRNGKey, TokenLogProbs

Outputs = Float[Array, "batch time hidden"]  # which need not be as wide as the values that come in
DEEP = 8  # equal layers from which on one program for all of them is compiled


class StackCarry(NamedTuple):
    """What each layer remembers, from the bottom up; the output (B, H) of the last step, zeros at first."""

    layers: tuple[Carry, ...]
    output: Float[Array, "batch feature"]


class MixerStack(HiddenModule):
    """Blocks one above the other; what stands below and above is a subclass's.

    In residual blocks a last norm comes before the readout. Dropout acts as `Block` says. Its kind, precision
    and recompute_steps are as in `RecurrentStack`.
    """

    blocks: tuple[Block, ...]
    hidden_size: int
    dropout: Rate = 0.0
    dropout_kind: DropoutKind = "fresh"
    precision: Precision = "float32"
    recompute_steps: int = 0

    def _embed(self, xs: Element | Elements) -> Float[Array, "*dims feature"]:
        """What the first layer reads, (..., H)."""
        raise NotImplementedError

    def _has_noise(self) -> bool:
        """Whether training needs a key."""
        return any_dropout(self.dropout)

    def _reader(self, key: PRNGKey | None) -> Read | None:
        """How the inputs of a window are read in training, of its key; None without noise on them."""
        return None

    def _predict(self, hidden: Float[Array, "*dims feature"]) -> Predictions | Prediction:
        """The prediction of the next element from the normed output of the top layer."""
        raise NotImplementedError

    @property
    def is_residual(self) -> bool:
        """Whether the blocks add to what they read."""
        return self.blocks[0].kind == "residual"

    def _declare_layers(self) -> None:
        self.layers = [
            self.param(f"layer_{i}", block.init, self.hidden_size) for i, block in enumerate(self.blocks)
        ]
        self.norm = (
            self.param("norm", nn.initializers.ones, (self.hidden_size,)) if self.is_residual else None
        )

    def init_carry(self, batch_size: int) -> StackCarry:
        """Each layer's, and an output of zeros."""
        pairs = zip(self.blocks, self.layers, strict=True)
        layers = tuple(block.init_carry(params, batch_size) for block, params in pairs)
        return StackCarry(layers, jnp.zeros((batch_size, self.hidden_size)))

    def update(self, carry: StackCarry, x: Element) -> StackCarry:
        """One step of every layer, from the bottom up."""
        x, layers = self._embed(x), []
        for block, params, layer in zip(self.blocks, self.layers, carry.layers, strict=True):
            layer, x = block.step(params, layer, x)
            layers.append(layer)
        return StackCarry(tuple(layers), x)

    def hidden(self, carry: StackCarry) -> Float[Array, "*dims feature"]:
        """What the prediction is made of: the top layer's output, normed in residual blocks."""
        return self._normed(carry.output)

    def _normed(self, output: Float[Array, "*dims feature"]) -> Float[Array, "*dims feature"]:
        return rms_norm(output, self.norm) if self.is_residual else output

    def readout(self, carry: StackCarry) -> Prediction:
        """The prediction from the top layer's output."""
        return self._predict(self.hidden(carry))

    def hidden_steps(
        self, carry: StackCarry, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[StackCarry, Outputs]:
        """The last carry, and `hidden` after each of xs (B, T): (B, T, H)."""
        check_key(training, key, has_noise=self._has_noise())
        run = partial(self._run, training, self._reader(key))
        piece = self.recompute_steps
        if not training or not 0 < piece < xs.shape[1]:
            carry, outputs = run(carry, xs, key)
        else:
            carry, outputs = in_pieces(run, carry, xs, piece, key, self.dropout_kind)
        return carry, self._normed(outputs)

    def _run(
        self, training: bool, read: Read | None, carry: StackCarry, xs: Elements, key: PRNGKey | None
    ) -> tuple[StackCarry, Outputs]:
        """All layers over all steps; equal ones that are many in a loop over them."""
        steps = 1 if self.dropout_kind == "variational" else None
        precision, rate = self.precision if training else "float32", self.dropout

        def unroll(block: Block, params: Params, carry: Carry, number: int | Int[Array, ""], rows: Rows):
            """A block over all steps; its two masks are drawn from the key and the number of its layer."""
            keys = (None, None)
            if key is not None:
                keys = tuple(jax.random.split(jax.random.fold_in(key, number)))
            return block.unroll(params, carry, rows, precision, rate, keys, steps)

        rows, layers, first = self._embed(xs) if read is None else read(xs, key), [], 0
        for block, group in groupby(self.blocks):
            number = len(list(group))
            chosen = slice(first, first + number)
            parts = list(
                zip(self.layers[chosen], carry.layers[chosen], range(first, first + number), strict=True)
            )
            carries, rows = _unroll_equal(partial(unroll, block), parts, rows)
            layers += carries
            first += number
        return StackCarry(tuple(layers), rows[:, -1]), rows

    def unroll(
        self, carry: StackCarry, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[StackCarry, Predictions]:
        """Predictions after every step."""
        carry, hidden = self.hidden_steps(carry, xs, training=training, key=key)
        return carry, self._predict(hidden)


def _unroll_equal(unroll, parts, rows: Rows) -> tuple[list[Carry], Rows]:
    """Layers of equal blocks, given by parameters, carry and number, one after the other."""
    if len(parts) < DEEP:
        carries = []
        for params, carry, number in parts:
            carry, rows = unroll(params, carry, number, rows)
            carries.append(carry)
        return carries, rows

    def layer(rows: Rows, part) -> tuple[Rows, Carry]:
        carry, rows = unroll(*part, rows)
        return rows, carry

    rows, stacked = lax.scan(layer, rows, jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts))
    leaves, structure = jax.tree.flatten(stacked)
    return [structure.unflatten([leaf[i] for leaf in leaves]) for i in range(len(parts))], rows


class MixerLanguageModel(MixerStack, kw_only=True):
    """The stack between an embedding of H features and a softmax, which may share its kernel.

    Words and entries of the embedded tokens are dropped as in `RecurrentLanguageModel`.
    """

    vocab_size: int
    embedding_dropout: Rate = 0.0
    input_dropout: Rate = 0.0
    tie_embeddings: bool = False
    sampled_softmax: int = 0

    def setup(self) -> None:
        """Declare the parameters."""
        # As in GPT-2 (Radford et al. 2019), where blocks have norms.
        draw = nn.initializers.normal(0.02 if self.is_residual else self.hidden_size**-0.5)
        self.embedding = self.param("embedding", draw, (self.vocab_size, self.hidden_size))
        self._declare_layers()
        if not self.tie_embeddings:
            self.output_kernel = self.param("output_kernel", draw, (self.hidden_size, self.vocab_size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

    def _has_noise(self) -> bool:
        dropped = any_dropout(self.embedding_dropout, self.input_dropout)
        return super()._has_noise() or dropped or self.sampled_softmax > 0

    def _reader(self, key: PRNGKey | None) -> Read | None:
        rates = self.embedding_dropout, self.input_dropout
        if key is None or not any_dropout(*rates):
            return None
        return reader(self.embedding, *rates, self.dropout_kind, key, time_axis=1)

    def _embed(self, xs: Int[Array, "*dims"]) -> Float[Array, "*dims feature"]:
        return lookup(self.embedding, xs)

    def projected(
        self, hidden: Float[Array, "*dims feature"], precision: Precision = "float32"
    ) -> Float[Array, "*dims feature"]:
        """What the softmax's kernel multiplies: the hidden state, in any precision."""
        return hidden

    def head(self) -> tuple[Float[Array, "feature vocab"], Float[Array, "vocab"]]:
        """Kernel and bias of the softmax."""
        return self.embedding.T if self.tie_embeddings else self.output_kernel, self.output_bias

    def _predict(self, hidden: Float[Array, "*dims feature"]) -> Float[Array, "*dims vocab"]:
        """Log-softmax of an affine map."""
        return jax.nn.log_softmax(affine(hidden, *self.head()))

    def token_log_probs(
        self,
        carry: StackCarry,
        xs: Elements,
        targets: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[StackCarry, TokenLogProbs]:
        """The targets' entries of `unroll`, whose derivative holds no second (B, T, V)."""
        carry, hidden = self.hidden_steps(carry, xs, training=training, key=key)
        how = self.precision if training else "float32", self.sampled_softmax, key
        return carry, target_log_probs(hidden, *self.head(), targets, *how)

    def token_trace(
        self, carry: StackCarry, xs: Elements, targets: Elements, *, key: PRNGKey | None = None
    ) -> tuple[StackCarry, Trace]:
        """As `token_log_probs` in training; nothing is dropped between hidden state and readout."""
        carry, hidden = self.hidden_steps(carry, xs, training=True, key=key)
        how = self.precision, self.sampled_softmax, key
        log_probs = target_log_probs(hidden, *self.head(), targets, *how)
        return carry, Trace(log_probs, hidden, hidden, mean_minus_target(hidden, *self.head(), targets))


class MixerSeriesModel(MixerStack, kw_only=True):
    """The stack between an affine map of the D values of a step and a `ValueHead`."""

    num_features: int
    head: HeadKind = "point"
    num_direct: int = 1

    def setup(self) -> None:
        """Declare the parameters."""
        draw = nn.initializers.lecun_normal()
        self.input_kernel = self.param("input_kernel", draw, (self.num_features, self.hidden_size))
        self.input_bias = self.param("input_bias", nn.initializers.zeros, (self.hidden_size,))
        self._declare_layers()
        self.value_head = ValueHead(self.hidden_size, self.num_features, self.head, self.num_direct)

    def _embed(self, xs: Float[Array, "*dims _"]) -> Float[Array, "*dims feature"]:
        return affine(xs, self.input_kernel, self.input_bias)

    def _predict(self, hidden: Float[Array, "*dims feature"]) -> OfValues:
        return self.value_head(hidden)

    def readout_direct(self, carry: StackCarry) -> OfValues:
        """The next K values at once, (B, K, D)."""
        return self.value_head.direct(self.hidden(carry))

"""Stacks of recurrent layers, and such a stack between an embedding and a softmax."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lmseq.contract import Predictions, batch_major, check_key
from lmseq.layers import (
    SMALL_VOCABULARY,
    Precision,
    affine,
    mean_minus_target,
    product,
)
from lmseq.models.candidates import target_log_probs
from lmseq.models.interface import HiddenModule, Trace
from lmseq.models.noisy import Rate, Read, any_dropout, drop_steps, drop_weights, reader
from lmseq.models.pieces import DropoutKind, in_pieces
from lmseq.recurrence import cudnn
from lmseq.recurrence.cells.cell import Cell, Inputs, Recurrent
from lmseq.recurrence.initial import input_bias, recurrent_bias, recurrent_kernel
from lmseq.recurrence.unrolled import Backend, scan_states, takes_cudnn, unroll_layer
from lmseq.types import Element, Elements, Prediction, PRNGKey, TokenLogProbs

Carry = tuple[PyTree[Float[Array, "batch _"]], ...]  # layers may differ in width
TimeFirst = Int[Array, "time batch"] | Float[Array, "time batch feature"]
Top = Float[Array, "time batch hidden"] | tuple[Float[Array, "time batch hidden"], ...]
LayerCarries = PyTree[Float[Array, "batch time _"]]  # after each of T steps


class InWindow(NamedTuple):
    """What is the same at all steps of a window: the weights inside the loops, and how tokens are read.

    read: None where the inputs are read without noise.
    """

    recurrent: Sequence[Recurrent | None]
    read: Read | None


class RecurrentStack(HiddenModule):
    """Layers of one recurrent cell; the carry is a tuple of their states.

    Each has hidden_size units, but the last one last_size, unless that is 0 (Merity et al. 2018).
    What stands below the first layer and above the last is a subclass's. Dropout acts on the outputs of every
    layer, between layers and before the readout (Zaremba et al. 2014): a fresh mask at each step, or one mask
    for all steps of a call (variational; Gal and Ghahramani 2016); on the last layer's at output_dropout,
    where that is not None. weight_drop is the rate of `noisy.drop_weights`. In training the products are
    taken in `precision`, else always in float32; and in training a window longer than `recompute_steps`
    (unless 0) keeps for its derivative only the carries between pieces of so many steps, whose activations
    are computed anew (gradient checkpointing; Chen et al. 2016). The loops over time are those of `backend`.
    """

    cell: Cell
    hidden_size: int
    num_layers: int = 1
    dropout: Rate = 0.0
    output_dropout: Rate | None = None
    weight_drop: Rate = 0.0
    dropout_kind: DropoutKind = "fresh"
    precision: Precision = "float32"
    recompute_steps: int = 0
    backend: Backend = "auto"
    last_size: int = 0

    def _first_inputs(self, xs: Element | Elements, precision: Precision = "float32") -> Inputs:
        """The first layer's projected inputs x W + b, (..., G * H)."""
        raise NotImplementedError

    def _inputs(self, xs: Elements) -> Float[Array, "*dims feature"] | None:
        """What `_first_inputs` projects; None where it would be too wide."""
        raise NotImplementedError

    def _predict(self, hidden: Float[Array, "*dims hidden"]) -> Predictions | Prediction:
        """The prediction of the next element from the top layer's output."""
        raise NotImplementedError

    def _sizes(self) -> list[int]:
        """Units of each layer."""
        return [self.hidden_size] * (self.num_layers - 1) + [self.last_size or self.hidden_size]

    def _declare_layers(self, input_width: int) -> None:
        """Packed kernels, one row of gates a layer."""
        sizes = self._sizes()
        inputs = [input_width, *sizes[:-1]]
        kernel = nn.initializers.lecun_normal()
        self.input_kernels = [
            self.param(f"input_kernel_{i}", kernel, (width, self.cell.num_gates * size))
            for i, (width, size) in enumerate(zip(inputs, sizes, strict=True))
        ]
        self.input_biases = [
            self.param(f"input_bias_{i}", lambda key, size=size: input_bias(self.cell, size))
            for i, size in enumerate(sizes)
        ]
        self.recurrent = [self._declare_recurrent(i) for i in range(self.num_layers)]

    def _declare_recurrent(self, layer: int) -> Recurrent | None:
        """The weights inside the loop, of a cell that has any."""
        cell, size, weights, bias = self.cell, self._sizes()[layer], None, None
        if cell.has_kernel:
            weights = self.param(f"recurrent_kernel_{layer}", recurrent_kernel, cell, size)
        if cell.has_bias:
            bias = self.param(f"recurrent_bias_{layer}", recurrent_bias, cell, size)
        return Recurrent(weights, bias) if cell.has_kernel or cell.has_bias else None

    def init_carry(self, batch_size: int) -> Carry:
        """The initial state of every layer: zeros, unless the cell has its own."""
        return tuple(self.cell.init_state(batch_size, size) for size in self._sizes())

    def _project(
        self, layer: int, xs: Float[Array, "*dims hidden"], precision: Precision = "float32"
    ) -> Inputs:
        """A layer's projected inputs, of what it reads."""
        return Inputs(product(xs, self.input_kernels[layer], precision), self.input_biases[layer])

    def _precision(self, training: bool) -> Precision:
        return self.precision if training else "float32"

    def update(self, carry: Carry, x: Element) -> Carry:
        """One step of every layer, from the bottom up."""
        inputs, states = self._first_inputs(x), []
        for layer, state in enumerate(carry):
            if layer:
                inputs = self._project(layer, self.cell.output(states[-1]))
            states.append(self.cell.step(self.recurrent[layer], state, inputs.steps(), "float32"))
        return tuple(states)

    def hidden(self, carry: Carry) -> Float[Array, "*dims hidden"]:
        """What the prediction is made of: the top layer's output."""
        return self.cell.output(carry[-1])

    def readout(self, carry: Carry) -> Prediction:
        """The prediction from the top layer's output."""
        return self._predict(self.hidden(carry))

    def carries(self, carry: Carry, xs: Elements) -> tuple[LayerCarries, ...]:
        """Layer by layer, the state after every step."""
        inputs, states = self._first_inputs(jnp.swapaxes(xs, 0, 1)), []
        for layer, state in enumerate(carry):
            if layer:
                inputs = self._project(layer, self.cell.output(states[-1]))
            states.append(scan_states(self.cell, self.recurrent[layer], state, inputs.steps()))
        return batch_major(tuple(states))

    def _has_noise(self) -> bool:
        """Whether training needs a key."""
        return any_dropout(self.dropout, self.output_dropout, self.weight_drop)

    def _reader(self, key: PRNGKey | None) -> Read | None:
        """How the inputs of a window are read in training, of its key; None without noise on them."""
        return None

    def _outputs(
        self, carry: Carry, xs: Elements, training: bool, key: PRNGKey | None, with_raw: bool = False
    ) -> tuple[Carry, Top]:
        """The last carry and the top layer's outputs, time first, as the scans below want it.

        with_raw: these outputs before dropout, and after it.
        """
        check_key(training, key, has_noise=self._has_noise())
        xs, piece = jnp.swapaxes(xs, 0, 1), self.recompute_steps
        same = InWindow(drop_weights(self.recurrent, self.weight_drop, key), self._reader(key))
        run = partial(self._layers, same, training, with_raw)
        if not training or not 0 < piece < len(xs):
            return run(carry, xs, key)
        return in_pieces(run, carry, xs, piece, key, self.dropout_kind, time_axis=0)

    def _layers(
        self,
        same: InWindow,
        training: bool,
        with_raw: bool,
        carry: Carry,
        xs: TimeFirst,
        key: PRNGKey | None,
    ) -> tuple[Carry, Top]:
        """Layer by layer over all steps of xs (T, B): every product but the recurrent one is over (T B)."""
        precision, states = self._precision(training), []
        whole = takes_cudnn(self.cell, precision, self.backend)
        outputs = raw = None
        if same.read is not None:
            outputs = same.read(xs, key)
        elif whole:
            outputs = self._inputs(xs)
        for layer, (weights, state) in enumerate(zip(same.recurrent, carry, strict=True)):
            if whole and outputs is not None:
                kernel, bias = self.input_kernels[layer], self.input_biases[layer]
                state, raw = cudnn.unroll_layer(kernel, bias, weights, state, outputs, precision)
            else:
                if outputs is None:
                    inputs = self._first_inputs(xs, precision)
                else:
                    inputs = self._project(layer, outputs, precision)
                state, raw = unroll_layer(self.cell, weights, state, inputs, precision, self.backend)
            outputs = self._drop(raw, layer, key)
            states.append(state)
        return tuple(states), (raw, outputs) if with_raw else outputs

    def hidden_steps(
        self, carry: Carry, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[Carry, Float[Array, "batch time hidden"]]:
        """The last carry, and `hidden` after every step, (B, T, H)."""
        carry, outputs = self._outputs(carry, xs, training, key)
        return carry, batch_major(outputs)

    def unroll(
        self, carry: Carry, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[Carry, Predictions]:
        """Predictions after every step."""
        carry, outputs = self._outputs(carry, xs, training, key)
        return carry, batch_major(self._predict(outputs))

    def _drop(
        self, outputs: Float[Array, "time batch hidden"], layer: int, key: PRNGKey | None
    ) -> Float[Array, "time batch hidden"]:
        """Dropout of a layer's outputs."""
        is_last = layer == self.num_layers - 1 and self.output_dropout is not None
        rate = self.output_dropout if is_last else self.dropout
        own = None if key is None else jax.random.fold_in(key, layer)
        return drop_steps(outputs, rate, own, self.dropout_kind, time_axis=0)


class RecurrentLanguageModel(RecurrentStack, kw_only=True):
    """The stack between an embedding and a softmax (Mikolov et al. 2010).

    embedding_size 0 feeds tokens one-hot, which is a lookup in the first layer's input weights.
    tie_embeddings reads out through the transposed embedding E (Press and Wolf 2017): h E^T + b, or, where
    the layers are not as wide as it, h P E^T + b with a projection P. embedding_dropout is the rate of
    `noisy.drop_words`, input_dropout that of entries of the embedded tokens; the readout's embedding is
    whole. Training takes `sampled_softmax` candidates of `candidates.draw_candidates`, or all words for 0.
    """

    vocab_size: int
    embedding_size: int = 0
    embedding_dropout: Rate = 0.0
    input_dropout: Rate = 0.0
    tie_embeddings: bool = False
    sampled_softmax: int = 0

    def setup(self) -> None:
        """Declare the parameters."""
        if self.embedding_size:
            scale = nn.initializers.normal(self.embedding_size**-0.5)
            self.embedding = self.param("embedding", scale, (self.vocab_size, self.embedding_size))
        self._declare_layers(self.embedding_size or self.vocab_size)
        kernel, top = nn.initializers.lecun_normal(), self._sizes()[-1]
        if not self.tie_embeddings:
            self.output_kernel = self.param("output_kernel", kernel, (top, self.vocab_size))
        elif self.embedding_size != top:
            shape = (top, self.embedding_size)
            self.output_projection = self.param("output_projection", kernel, shape)
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

    def _first_inputs(self, xs: Int[Array, "*dims"], precision: Precision = "float32") -> Inputs:
        """Of token ids (...)."""
        if not self.embedding_size:
            return Inputs(self.input_kernels[0], self.input_biases[0], xs)
        number = xs.size if isinstance(xs.size, int) else 0  # not known in a program for any number of rows
        if self.vocab_size <= max(number, SMALL_VOCABULARY):
            # Projecting the whole table once is less work than projecting every token; of a small one even
            # for a single step, as XLA takes it out of a loop of steps.
            return self._project(0, self.embedding, precision)._replace(ids=xs)
        return self._project(0, self.embedding[xs], precision)

    def _inputs(self, xs: Int[Array, "*dims"]) -> Float[Array, "*dims feature"] | None:
        if self.embedding_size:
            return self.embedding[xs]
        return jax.nn.one_hot(xs, self.vocab_size) if self.vocab_size <= SMALL_VOCABULARY else None

    def _has_noise(self) -> bool:
        dropped = any_dropout(self.embedding_dropout, self.input_dropout)
        return super()._has_noise() or dropped or self.sampled_softmax > 0

    def _reader(self, key: PRNGKey | None) -> Read | None:
        rates = self.embedding_dropout, self.input_dropout
        if key is None or not any_dropout(*rates):
            return None
        return reader(self.embedding, *rates, self.dropout_kind, key, time_axis=0)

    def _predict(self, hidden: Float[Array, "*dims hidden"]) -> Float[Array, "*dims vocab"]:
        """Log-softmax of an affine map."""
        return jax.nn.log_softmax(affine(self.projected(hidden), *self.head()))

    def projected(
        self, hidden: Float[Array, "*dims hidden"], precision: Precision = "float32"
    ) -> Float[Array, "*dims feature"]:
        """What the softmax's kernel multiplies, as wide as the kernel is high."""
        if not self.tie_embeddings or self.embedding_size == self._sizes()[-1]:
            return hidden
        return product(hidden, self.output_projection, precision)

    def head(self) -> tuple[Float[Array, "feature vocab"], Float[Array, "vocab"]]:
        """Kernel and bias of the softmax."""
        return self.embedding.T if self.tie_embeddings else self.output_kernel, self.output_bias

    def token_log_probs(
        self,
        carry: Carry,
        xs: Elements,
        targets: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, TokenLogProbs]:
        """The targets' entries of `unroll`, whose derivative holds no second (B, T, V)."""
        carry, outputs = self._outputs(carry, xs, training, key)
        targets = jnp.swapaxes(targets, 0, 1)
        log_probs = self._of_targets(outputs, targets, self._precision(training), key)
        return carry, jnp.swapaxes(log_probs, 0, 1)

    def _of_targets(
        self,
        outputs: Float[Array, "*dims hidden"],
        targets: Int[Array, "*dims"],
        precision: Precision,
        key: PRNGKey | None,
    ) -> Float[Array, "*dims"]:
        how = precision, self.sampled_softmax, key
        return target_log_probs(self.projected(outputs, precision), *self.head(), targets, *how)

    def token_trace(
        self, carry: Carry, xs: Elements, targets: Elements, *, key: PRNGKey | None = None
    ) -> tuple[Carry, Trace]:
        """As `token_log_probs` in training, with what penalties and label smoothing are made of."""
        carry, (raw, outputs) = self._outputs(carry, xs, True, key, with_raw=True)
        raw, outputs = batch_major((raw, outputs))
        log_probs = self._of_targets(outputs, targets, self._precision(True), key)
        spread = mean_minus_target(self.projected(outputs), *self.head(), targets)
        return carry, Trace(log_probs, outputs, raw, spread)

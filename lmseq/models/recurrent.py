"""Stacks of recurrent layers: between an embedding and a softmax, or between values and a value head."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lmseq.contract import Predictions, batch_major, check_key
from lmseq.layers import Precision, affine, drop, has_dropout, lookup, softmax_log_probs
from lmseq.models.heads import HeadKind, ValueHead
from lmseq.models.interface import HiddenModule
from lmseq.models.pieces import DropoutKind, in_pieces
from lmseq.models.shifting import all_shifted, flat, flat_width, last_shifted, newest_known, shifted
from lmseq.recurrence import cudnn
from lmseq.recurrence.cells.cell import Cell, LayerState, Recurrent
from lmseq.recurrence.initial import input_bias, recurrent_bias, recurrent_kernel
from lmseq.recurrence.unrolled import Backend, scan_states, takes_cudnn, unroll_layer
from lmseq.types import Covariates, Element, Elements, OfValues, Prediction, PRNGKey, TokenLogProbs

SMALL_VOCABULARY = 512
Carry = tuple[LayerState, ...]
TimeFirst = Int[Array, "time batch"] | Float[Array, "time batch feature"]
WithWindow = tuple[PyTree, Float[Array, "..."]]  # a carry, and the last values
LayerCarries = PyTree[Float[Array, "batch time hidden"]]  # after each of T steps


class RecurrentStack(HiddenModule):
    """Layers of one recurrent cell; the carry is a tuple of their states.

    What stands below the first layer and above the last is a subclass's. Dropout acts on the outputs of every
    layer, between layers and before the readout (Zaremba et al. 2014): a fresh mask at each step, or one mask
    for all steps of a call (variational; Gal and Ghahramani 2016). In training the products are taken in
    `precision`, else always in float32; and in training a window longer than `recompute_steps` (unless 0)
    keeps for its derivative only the carries between pieces of so many steps, whose activations are computed
    anew (gradient checkpointing; Chen et al. 2016). The loops over time are those of `backend`.
    """

    cell: Cell
    hidden_size: int
    num_layers: int = 1
    dropout: float | Float[Array, ""] = 0.0
    dropout_kind: DropoutKind = "fresh"
    precision: Precision = "float32"
    recompute_steps: int = 0
    backend: Backend = "auto"

    def _project_inputs(
        self, xs: Element | Elements, precision: Precision = "float32"
    ) -> Float[Array, "*dims gates"]:
        """The first layer's projected inputs x W + b, (..., G * H)."""
        raise NotImplementedError

    def _inputs(self, xs: Elements) -> Float[Array, "*dims feature"] | None:
        """What `_project_inputs` projects; None where it would be too wide."""
        raise NotImplementedError

    def _predict(self, hidden: Float[Array, "*dims hidden"]) -> Predictions | Prediction:
        """The prediction of the next element from the top layer's output."""
        raise NotImplementedError

    def _declare_layers(self, input_width: int) -> None:
        """Packed kernels, one row of gates a layer."""
        gates = self.cell.num_gates * self.hidden_size
        inputs = [input_width] + [self.hidden_size] * (self.num_layers - 1)
        kernel = nn.initializers.lecun_normal()
        self.input_kernels = [
            self.param(f"input_kernel_{i}", kernel, (width, gates)) for i, width in enumerate(inputs)
        ]
        self.input_biases = [
            self.param(f"input_bias_{i}", lambda key: input_bias(self.cell, self.hidden_size))
            for i in range(self.num_layers)
        ]
        self.recurrent = [self._declare_recurrent(i) for i in range(self.num_layers)]

    def _declare_recurrent(self, layer: int) -> Recurrent | None:
        """The weights inside the loop, of a cell that has any."""
        cell, weights, bias = self.cell, None, None
        if cell.has_kernel:
            weights = self.param(f"recurrent_kernel_{layer}", recurrent_kernel, cell, self.hidden_size)
        if cell.has_bias:
            bias = self.param(f"recurrent_bias_{layer}", recurrent_bias, cell, self.hidden_size)
        return Recurrent(weights, bias) if cell.has_kernel or cell.has_bias else None

    def init_carry(self, batch_size: int) -> Carry:
        """The initial state of every layer: zeros, unless the cell has its own."""
        return tuple(self.cell.init_state(batch_size, self.hidden_size) for _ in range(self.num_layers))

    def _project(
        self, layer: int, xs: Float[Array, "*dims hidden"], precision: Precision = "float32"
    ) -> Float[Array, "*dims gates"]:
        return affine(xs, self.input_kernels[layer], self.input_biases[layer], precision)

    def _precision(self, training: bool) -> Precision:
        return self.precision if training else "float32"

    def update(self, carry: Carry, x: Element) -> Carry:
        """One step of every layer, from the bottom up."""
        projected, states = self._project_inputs(x), []
        for layer, state in enumerate(carry):
            if layer:
                projected = self._project(layer, self.cell.output(states[-1]))
            states.append(self.cell.step(self.recurrent[layer], state, projected, "float32"))
        return tuple(states)

    def hidden(self, carry: Carry) -> Float[Array, "*dims hidden"]:
        """What the prediction is made of: the top layer's output."""
        return self.cell.output(carry[-1])

    def readout(self, carry: Carry) -> Prediction:
        """The prediction from the top layer's output."""
        return self._predict(self.hidden(carry))

    def carries(self, carry: Carry, xs: Elements) -> tuple[LayerCarries, ...]:
        """Layer by layer, the state after every step."""
        projected, states = self._project_inputs(jnp.swapaxes(xs, 0, 1)), []
        for layer, state in enumerate(carry):
            if layer:
                projected = self._project(layer, self.cell.output(states[-1]))
            states.append(scan_states(self.cell, self.recurrent[layer], state, projected))
        return batch_major(tuple(states))

    def _outputs(
        self, carry: Carry, xs: Elements, training: bool, key: PRNGKey | None
    ) -> tuple[Carry, Float[Array, "time batch hidden"]]:
        """The last carry and the top layer's outputs, time first, as the scans below want it."""
        check_key(training, key, has_noise=has_dropout(self.dropout))
        xs, piece = jnp.swapaxes(xs, 0, 1), self.recompute_steps
        if not training or not 0 < piece < len(xs):
            return self._layers(carry, xs, key, training)
        run = partial(self._layers, training=training)
        return in_pieces(run, carry, xs, piece, key, self.dropout_kind, time_axis=0)

    def _layers(
        self, carry: Carry, xs: TimeFirst, key: PRNGKey | None, training: bool
    ) -> tuple[Carry, Float[Array, "time batch hidden"]]:
        """Layer by layer over all steps of xs (T, B): every product but the recurrent one is over (T B)."""
        precision, states = self._precision(training), []
        whole = takes_cudnn(self.cell, precision, self.backend)
        outputs = self._inputs(xs) if whole else None
        for layer, (weights, state) in enumerate(zip(self.recurrent, carry, strict=True)):
            if whole and outputs is not None:
                kernel, bias = self.input_kernels[layer], self.input_biases[layer]
                state, outputs = cudnn.unroll_layer(kernel, bias, weights, state, outputs, precision)
            else:
                below = (
                    self._project(layer, outputs, precision) if layer else self._project_inputs(xs, precision)
                )
                state, outputs = unroll_layer(self.cell, weights, state, below, precision, self.backend)
            outputs = self._drop(outputs, None if key is None else jax.random.fold_in(key, layer))
            states.append(state)
        return tuple(states), outputs

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
        self, outputs: Float[Array, "time batch hidden"], key: PRNGKey | None
    ) -> Float[Array, "time batch hidden"]:
        """Dropout; variational with one mask for all steps."""
        time, batch, hidden = outputs.shape
        steps = 1 if self.dropout_kind == "variational" else time
        return drop(outputs, self.dropout, key, (steps, batch, hidden), batch_axis=1)


class RecurrentLanguageModel(RecurrentStack, kw_only=True):
    """The stack between an embedding and a softmax (Mikolov et al. 2010).

    embedding_size 0 feeds tokens one-hot, which is a lookup in the first layer's input weights.
    tie_embeddings reads out through the transposed embedding (Press and Wolf 2017) and needs
    embedding_size == hidden_size.
    """

    vocab_size: int
    embedding_size: int = 0
    tie_embeddings: bool = False

    def setup(self) -> None:
        """Declare the parameters."""
        if self.embedding_size:
            scale = nn.initializers.normal(self.embedding_size**-0.5)
            self.embedding = self.param("embedding", scale, (self.vocab_size, self.embedding_size))
        self._declare_layers(self.embedding_size or self.vocab_size)
        if not self.tie_embeddings:
            kernel = nn.initializers.lecun_normal()
            self.output_kernel = self.param("output_kernel", kernel, (self.hidden_size, self.vocab_size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

    def _project_inputs(
        self, xs: Int[Array, "*dims"], precision: Precision = "float32"
    ) -> Float[Array, "*dims gates"]:
        """The first layer's projected inputs x W + b for token ids (...): (..., G * H)."""
        kernel, bias = self.input_kernels[0], self.input_biases[0]
        if not self.embedding_size:
            return lookup(kernel + bias[None], xs)
        if self.vocab_size <= max(xs.size, SMALL_VOCABULARY):
            # Projecting the whole table once is less work than projecting every token; of a small one even
            # for a single step, as XLA takes it out of a loop of steps.
            return lookup(affine(self.embedding, kernel, bias, precision), xs)
        return affine(self.embedding[xs], kernel, bias, precision)

    def _inputs(self, xs: Int[Array, "*dims"]) -> Float[Array, "*dims feature"] | None:
        if self.embedding_size:
            return self.embedding[xs]
        return jax.nn.one_hot(xs, self.vocab_size) if self.vocab_size <= SMALL_VOCABULARY else None

    def _predict(self, hidden: Float[Array, "*dims hidden"]) -> Float[Array, "*dims vocab"]:
        """Log-softmax of an affine map."""
        return jax.nn.log_softmax(affine(hidden, self._output_kernel(), self.output_bias))

    def _output_kernel(self) -> Float[Array, "hidden vocab"]:
        return self.embedding.T if self.tie_embeddings else self.output_kernel

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
        log_probs = softmax_log_probs(
            outputs, self._output_kernel(), self.output_bias, targets, self._precision(training)
        )
        return carry, jnp.swapaxes(log_probs, 0, 1)


class RecurrentSeriesModel(RecurrentStack, kw_only=True):
    """The stack between the D values of a series and a `ValueHead`."""

    num_features: int
    head: HeadKind = "point"
    num_direct: int = 1

    def setup(self) -> None:
        """Declare the parameters."""
        self._declare_layers(self.num_features)
        self.value_head = ValueHead(self.hidden_size, self.num_features, self.head, self.num_direct)

    def _project_inputs(
        self, xs: Float[Array, "*dims feature"], precision: Precision = "float32"
    ) -> Float[Array, "*dims gates"]:
        return self._project(0, xs, precision)

    def _inputs(self, xs: Float[Array, "*dims feature"]) -> Float[Array, "*dims feature"]:
        return xs

    def _predict(self, hidden: Float[Array, "*dims hidden"]) -> OfValues:
        return self.value_head(hidden)

    def readout_direct(self, carry: Carry) -> OfValues:
        """The next K values at once, (B, K, D)."""
        return self.value_head.direct(self.cell.output(carry[-1]))


class WindowedRecurrentSeriesModel(RecurrentSeriesModel, kw_only=True):
    """The same whose head sees the last tau values too, beside the state: a linear map of them is added.

    The carry is that of the stack and the window, (B, tau, D), with zeros before so many values were seen.
    Covariates are further columns of what the stack and the head read; those known ahead also reach the head
    by themselves.
    """

    tau: int
    covariates: Covariates = Covariates()

    def setup(self) -> None:
        """Declare the parameters."""
        self._declare_layers(self.num_features + self.covariates.total)
        width = self.hidden_size + flat_width(self.tau, self.num_features, self.covariates)
        kind = (self.num_features, self.head, self.num_direct, self.covariates.known)
        self.value_head = ValueHead(width, *kind)

    def init_carry(self, batch_size: int) -> WithWindow:
        """The stack's, and a window of zeros."""
        width = self.num_features + self.covariates.total
        return super().init_carry(batch_size), jnp.zeros((batch_size, self.tau, width))

    def update(self, carry: WithWindow, x: Element) -> WithWindow:
        """One step of the stack; the newest value comes into the window and the oldest goes."""
        states, window = carry
        return super().update(states, x), shifted(window, x)

    def _seen(
        self, outputs: Float[Array, "*dims hidden"], windows: Float[Array, "*dims window feature"]
    ) -> Float[Array, "*dims out"]:
        """What the head sees."""
        return jnp.concatenate([outputs, flat(windows, self.covariates.static)], axis=-1)

    def readout(self, carry: WithWindow) -> OfValues:
        """The prediction from the top layer's output and the window."""
        states, window = carry
        known = newest_known(window, self.num_features, self.covariates)
        return self.value_head(self._seen(self.cell.output(states[-1]), window), known)

    def readout_direct(
        self, carry: WithWindow, known: Float[Array, "batch lead covariate"] | None = None
    ) -> OfValues:
        """The next K values at once, (B, K, D), of covariates known L steps ahead."""
        states, window = carry
        return self.value_head.direct(self._seen(self.cell.output(states[-1]), window), known)

    def carries(self, carry: WithWindow, xs: Elements) -> WithWindow:
        """The stack's after every step, and the windows."""
        states, window = carry
        return super().carries(states, xs), all_shifted(window, xs)

    def unroll(
        self, carry: WithWindow, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[WithWindow, Predictions]:
        """Predictions after every step."""
        states, window = carry
        states, outputs = self._outputs(states, xs, training, key)
        windows = all_shifted(window, xs)
        known = newest_known(windows, self.num_features, self.covariates)
        predictions = self.value_head(self._seen(jnp.swapaxes(outputs, 0, 1), windows), known)
        return (states, last_shifted(window, xs)), predictions

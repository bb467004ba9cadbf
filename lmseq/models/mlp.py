"""Perceptrons over the last tau elements: the neural n-gram (Bengio et al. 2003), and its like for values."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmseq.contract import Predictions, check_key
from lmseq.layers import affine, drop, has_dropout, lookup
from lmseq.models.heads import HeadKind, ValueHead
from lmseq.models.interface import SequenceModule
from lmseq.models.shifting import (
    Shifted,
    Window,
    all_shifted,
    flat,
    flat_width,
    last_shifted,
    newest_known,
    shifted,
)
from lmseq.types import Covariates, Element, Elements, OfValues, Prediction, PRNGKey

Activation = Literal["tanh", "relu", "gelu", "silu"]
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
Windows = Int[Array, "*dims window"] | Float[Array, "*dims window feature"]


class MarkovModel(SequenceModule):
    """A perceptron over a window: the carry is the last tau elements, oldest first, (B, tau, ...).

    num_layers hidden layers of hidden_size units; none makes the model linear in what `_embed` gives. A
    residual network adds to each hidden layer after the first its input (He et al. 2016). Dropout acts on
    the outputs of the layers.
    """

    tau: int
    hidden_size: int
    num_layers: int = 1
    activation: Activation = "tanh"
    residual: bool = False
    dropout: float | Float[Array, ""] = 0.0

    @property
    def memory(self) -> int:
        """How many of the last elements the carry is made of."""
        return self.tau

    def _embed(self, windows: Windows) -> Float[Array, "*dims input"]:
        """Windows (..., tau) of tokens or (..., tau, D) of values as one vector each."""
        raise NotImplementedError

    def _predict(self, hidden: Float[Array, "*dims hidden"]) -> Predictions | Prediction:
        """The prediction from the last hidden layer, or, where there is none, from the embedded window."""
        raise NotImplementedError

    def _read(self, windows: Windows, key: PRNGKey | None = None) -> Predictions | Prediction:
        """The prediction from each window."""
        return self._predict(self._forward(windows, key))

    def _declare_layers(self, input_width: int) -> int:
        """Kernels and biases; returns the width of what `_predict` will see."""
        widths = [input_width] + [self.hidden_size] * self.num_layers
        kernel = nn.initializers.lecun_normal()
        self.kernels = [self.param(f"kernel_{i}", kernel, widths[i : i + 2]) for i in range(self.num_layers)]
        self.biases = [
            self.param(f"bias_{i}", nn.initializers.zeros, (self.hidden_size,))
            for i in range(self.num_layers)
        ]
        return widths[-1]

    def _forward(self, windows: Windows, key: PRNGKey | None = None) -> Float[Array, "*dims hidden"]:
        hidden, activation = self._embed(windows), ACTIVATIONS[self.activation]
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            out = activation(affine(hidden, kernel, bias))
            hidden = out + hidden if self.residual and layer else out
            hidden = drop(hidden, self.dropout, None if key is None else jax.random.fold_in(key, layer))
        return hidden

    def update(self, carry: Window, x: Element) -> Window:
        """Shift the newest element in and the oldest out."""
        return shifted(carry, x)

    def readout(self, carry: Window) -> Prediction:
        """The prediction for one window a row."""
        return self._read(carry)

    def carries(self, carry: Window, xs: Elements) -> Shifted:
        """All B T windows at once."""
        return all_shifted(carry, xs)

    def unroll(
        self, carry: Window, xs: Elements, *, training: bool = False, key: PRNGKey | None = None
    ) -> tuple[Window, Predictions]:
        """One batched product a layer for all windows."""
        check_key(training, key, has_noise=has_dropout(self.dropout))
        return last_shifted(carry, xs), self._read(self.carries(carry, xs), key)


class MarkovLanguageModel(MarkovModel, kw_only=True):
    """log P(x_{t+1} | x_t ... x_{t-tau+1}) from the concatenated embeddings of tau tokens, by a softmax.

    Before tau tokens were seen the window is filled up with a padding id, V, whose embedding is learned
    like any other.
    """

    vocab_size: int
    embedding_size: int = 64

    def setup(self) -> None:
        """Declare the parameters."""
        kernel = nn.initializers.lecun_normal()
        scale = nn.initializers.normal(self.embedding_size**-0.5)
        self.embedding = self.param("embedding", scale, (self.vocab_size + 1, self.embedding_size))
        width = self._declare_layers(self.tau * self.embedding_size)
        self.output_kernel = self.param("output_kernel", kernel, (width, self.vocab_size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

    def init_carry(self, batch_size: int) -> Int[Array, "batch window"]:
        """A window of padding."""
        return jnp.full((batch_size, self.tau), self.vocab_size, jnp.int32)

    def _embed(self, windows: Int[Array, "*dims window"]) -> Float[Array, "*dims input"]:
        embedded = lookup(self.embedding, windows)
        return embedded.reshape(*windows.shape[:-1], self.tau * self.embedding_size)

    def _predict(self, hidden: Float[Array, "*dims hidden"]) -> Float[Array, "*dims vocab"]:
        return jax.nn.log_softmax(affine(hidden, self.output_kernel, self.output_bias))


class MarkovSeriesModel(MarkovModel, kw_only=True):
    """The next D values from the last tau; before so many were seen, zeros: the mean, once standardised.

    With `skip` the head sees the window beside the last hidden layer, so that a linear map of the window is
    added to what the layers give. Covariates are further columns of the window; those known ahead also reach
    the head, by itself or, with `is_shared` false, by weights that differ from step to step.
    """

    num_features: int
    head: HeadKind = "point"
    num_direct: int = 1
    skip: bool = False
    covariates: Covariates = Covariates()
    is_shared: bool = True

    def setup(self) -> None:
        """Declare the parameters."""
        width = flat_width(self.tau, self.num_features, self.covariates)
        width = self._declare_layers(width) + (width if self.skip else 0)
        known = (self.covariates.known, self.is_shared)
        self.value_head = ValueHead(width, self.num_features, self.head, self.num_direct, *known)

    def init_carry(self, batch_size: int) -> Float[Array, "batch window feature"]:
        """A window of zeros."""
        return jnp.zeros((batch_size, self.tau, self.num_features + self.covariates.total))

    def _embed(self, windows: Float[Array, "*dims window feature"]) -> Float[Array, "*dims input"]:
        return flat(windows, self.covariates.static)

    def _forward(self, windows: Windows, key: PRNGKey | None = None) -> Float[Array, "*dims hidden"]:
        hidden = super()._forward(windows, key)
        return jnp.concatenate([hidden, self._embed(windows)], axis=-1) if self.skip else hidden

    def _read(self, windows: Windows, key: PRNGKey | None = None) -> OfValues:
        hidden = self._forward(windows, key)
        return self.value_head(hidden, newest_known(windows, self.num_features, self.covariates))

    def readout_direct(
        self,
        carry: Float[Array, "batch window feature"],
        known: Float[Array, "batch lead covariate"] | None = None,
    ) -> OfValues:
        """The next K values at once, (B, K, D), of covariates known L steps ahead."""
        return self.value_head.direct(self._forward(carry), known)

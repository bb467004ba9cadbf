"""Stacks of recurrent layers between values and a value head."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lmseq.contract import Predictions
from lmseq.layers import Precision
from lmseq.models.heads import HeadKind, ValueHead
from lmseq.models.recurrent import Carry, RecurrentStack
from lmseq.models.shifting import all_shifted, flat, flat_width, last_shifted, newest_known, shifted
from lmseq.recurrence.cells.cell import Inputs
from lmseq.types import Covariates, Element, Elements, OfValues, PRNGKey

WithWindow = tuple[PyTree, Float[Array, "..."]]  # a carry, and the last values


class RecurrentSeriesModel(RecurrentStack, kw_only=True):
    """The stack between the D values of a series and a `ValueHead`."""

    num_features: int
    head: HeadKind = "point"
    num_direct: int = 1

    def setup(self) -> None:
        """Declare the parameters."""
        self._declare_layers(self.num_features)
        self.value_head = ValueHead(self.hidden_size, self.num_features, self.head, self.num_direct)

    def _first_inputs(self, xs: Float[Array, "*dims feature"], precision: Precision = "float32") -> Inputs:
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

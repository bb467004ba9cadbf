"""A recurrent cell as a mixer."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lmseq.layers import Precision, affine, product
from lmseq.mixers.mixer import Mixer, Row, Rows, Spread, draw_kernel
from lmseq.recurrence.cells.cell import Cell, Inputs, LayerState, Recurrent
from lmseq.recurrence.initial import input_bias, recurrent_bias, recurrent_kernel
from lmseq.recurrence.unrolled import Backend, unroll_layer
from lmseq.types import Params, PRNGKey


@dataclass(frozen=True)
class CellLayer(Mixer):
    """Projected inputs, the cell over time, and its outputs; with `has_output` a last product of them."""

    cell: Cell
    has_output: bool
    backend: Backend = "auto"

    def init(self, key: PRNGKey, width: int, spread: Spread) -> Params:
        """Kernel and bias of the inputs, what is inside the loop, and the output kernel."""
        cell = self.cell
        keys = jax.random.split(key, 4)
        params = {
            "input": draw_kernel(keys[0], width, cell.num_gates * width, None),
            "bias": input_bias(cell, width),
        }
        if cell.has_kernel:
            params["recurrent"] = recurrent_kernel(keys[1], cell, width)
        if cell.has_bias:
            params["recurrent_bias"] = recurrent_bias(keys[2], cell, width)
        if self.has_output:
            params["output"] = draw_kernel(keys[3], width, width, spread.last)
        return params

    def _weights(self, params: Params) -> Recurrent | None:
        if not (self.cell.has_kernel or self.cell.has_bias):
            return None
        return Recurrent(params.get("recurrent"), params.get("recurrent_bias"))

    def _outwards(self, params: Params, outputs: Row | Rows, precision: Precision) -> Row | Rows:
        return product(outputs, params["output"], precision) if self.has_output else outputs

    def init_carry(self, params: Params, batch_size: int) -> LayerState:
        """The cell's initial state."""
        return self.cell.init_state(batch_size, params["bias"].shape[0] // self.cell.num_gates)

    def step(self, params: Params, carry: LayerState, x: Row) -> tuple[LayerState, Row]:
        """One step of the cell."""
        projected = affine(x, params["input"], params["bias"])
        carry = self.cell.step(self._weights(params), carry, projected, "float32")
        return carry, self._outwards(params, self.cell.output(carry), "float32")

    def unroll(
        self, params: Params, carry: LayerState, xs: Rows, precision: Precision = "float32"
    ) -> tuple[LayerState, Rows]:
        """All steps, time first inside."""
        inputs = Inputs(product(jnp.swapaxes(xs, 0, 1), params["input"], precision), params["bias"])
        weights = self._weights(params)
        carry, outputs = unroll_layer(self.cell, weights, carry, inputs, precision, self.backend)
        return carry, self._outwards(params, jnp.swapaxes(outputs, 0, 1), precision)

"""What a recurrent cell is: its step as a pure function, and what else is known about it, as one value.

A cell sees its input already projected, x W + b, because the projections of all steps are one product
outside the loop; only the product with the state stays inside. The gates are packed along the last axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lmseq.layers import Precision, matmul_along, rows_of, sum_by_id
from lmseq.recurrence.library import Result
from lmseq.types import PRNGKey

State = Float[Array, "batch hidden"]
Gates = Float[Array, "batch gates"]
Steps = Float[Array, "time batch hidden"]
GateSteps = Float[Array, "time batch gates"]
LayerState = PyTree[State]  # what a layer carries: one array, or a NamedTuple of several
LayerStates = PyTree[Steps]  # the same after each of T steps


class Inputs(NamedTuple):
    """The projected inputs x W + b of T steps and B rows, (T, B, G * H), as their parts.

    rows: x W, (T, B, G * H); or, with ids (T, B), a table of x W for each of V tokens, (V, G * H), whose rows
    are looked up; ids are 0 ... V - 1. bias: b (G * H,), or None for none.
    """

    rows: Float[Array, "*dims gates"]
    bias: Float[Array, "gates"] | None = None
    ids: Int[Array, "*dims"] | None = None

    @property
    def time(self) -> int:
        """T."""
        return len(self.rows if self.ids is None else self.ids)

    def steps(self) -> Float[Array, "*dims gates"]:
        """The whole of them, which are those of one step where rows or ids are."""
        rows = self.rows if self.ids is None else rows_of(self.rows, self.ids)
        return rows if self.bias is None else rows + jnp.broadcast_to(self.bias, rows.shape)

    def arrays(self) -> tuple[Array, Array, Array]:
        """Rows, bias and ids; in the place of None a bias of zeros, and no ids (0, 0)."""
        bias = jnp.zeros(self.rows.shape[-1:], self.rows.dtype) if self.bias is None else self.bias
        ids = jnp.zeros((0, 0), jnp.int32) if self.ids is None else self.ids.astype(jnp.int32)
        return self.rows, bias, ids

    def slopes(
        self, d_steps: GateSteps, precision: Precision, d_bias: Float[Array, "gates"] | None = None
    ) -> "Inputs":
        """The gradient of a value with respect to rows and bias, of that with respect to `steps`.

        d_bias: the sum of that over steps and rows, where it is known; of a table it is made of the rows'.
        """
        d_rows = d_steps.astype(self.rows.dtype)
        if self.ids is not None:
            d_rows = sum_by_id(d_steps, self.ids, len(self.rows), precision)
        if self.bias is None:
            return Inputs(d_rows)
        if d_bias is None or self.ids is not None:
            d_bias = jnp.sum(d_rows, axis=range(d_rows.ndim - 1))
        return Inputs(d_rows, d_bias)


class Recurrent(NamedTuple):
    """The weights of a layer inside the loop: kernel U (H, G * H); bias (H,), of the last gate's product.

    A linear recurrence has no kernel; its bias, if it has one, is what its `coefficients` make of it.
    """

    kernel: Float[Array, "hidden gates"] | None
    bias: Float[Array, "hidden"] | None = None


def project(state: State, kernel: Float[Array, "hidden gates"], precision: Precision) -> Gates:
    """h U, (B, G * H)."""
    return matmul_along(state, kernel, 1, 0, precision)


def zeros(batch_size: int, hidden_size: int) -> State:
    """A state of zeros, (B, H), float32."""
    return jnp.zeros((batch_size, hidden_size))


def whole(state: Float[Array, "*dims hidden"]) -> Float[Array, "*dims hidden"]:
    """The output of a cell whose state is one array: that array."""
    return state


Step = Callable[[Recurrent | None, LayerState, Gates, Precision], LayerState]
# Gradients: of h U, or h U + bias; of the inputs, None where it is the same; of the first state.
Deltas = tuple[GateSteps, GateSteps | None, LayerState]


class Derivative(NamedTuple):
    """The derivative of a sequence of steps, written out; `lmseq/recurrence/derivative.py` runs it.

    step: as a cell's, but returns (state, kept): beside the state, what `deltas` needs of this step.
    deltas: (back, initial, states, kept, d_last, d_outputs) -> the gradients named by `Deltas`, (T, B, G * H)
    each or None, and one as the state. `initial` is the state before the first step, `states` and `kept` are
    those of all steps, stacked; d_last and d_outputs (T, B, H) are the gradients of the last state and of the
    outputs. back(delta) is delta U^T, (B, H).
    """

    step: Callable[[Recurrent, LayerState, Gates, Precision], tuple[LayerState, Any]]
    deltas: Callable[[Callable[[Gates], State], LayerState, LayerStates, Any, LayerState, Steps], Deltas]


class Call(Protocol):
    """A loop of `cpp/` in a precision, called with results, which are shapes or what follows, and arrays."""

    def __call__(self, results: Sequence[Result], *arrays: Array) -> list[Array]:
        """Arrays of these results."""

    def gates(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """A result that is kept for the backward loop alone, of tanhs and sigmoids."""

    def operands(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """A result that products are made of."""


class Native(NamedTuple):
    """How a cell's loops in `cpp/` are called: which arrays they take and return, in which order.

    forward: (call, weights, state, inputs, keep) -> last state, outputs (T, B, H), and, if `keep`, all states
    and what the backward loop needs besides. backward: (call, transposed kernel, initial, states, kept,
    d_last, d_outputs) -> what `Derivative.deltas` returns.
    """

    forward: Callable[
        [Call, Recurrent, LayerState, Inputs, bool],
        tuple[LayerState, Steps, tuple[LayerStates, Any] | None],
    ]
    backward: Callable[
        [Call, Float[Array, "gates hidden"], LayerState, LayerStates, Any, LayerState, Steps], Deltas
    ]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell with G gates and H units. The first three fields are enough for a cell of your own.

    name: what configs and messages call it.
    num_gates: G; a step's input x is projected to (B, G * H), one block of H a gate.
    step: (weights, state, x, precision) -> the state after the input x (B, G * H). `precision` is that of its
        products with the state, see `project`.
    init_state: (batch_size, hidden_size) -> the state before the first input.
    output: the part of a state (..., H) that the layer above reads.
    has_kernel, has_bias: whether a layer has U (H, G * H) and a bias (H,) inside the loop, see `Recurrent`;
        without both, `weights` is None.
    first_bias: (key, hidden_size) -> the bias inside the loop that a training begins with; without it, zeros.
    input_bias: the number at which each gate's part of the input bias b starts; empty for all 0.

    The others make a layer faster and change no result but by rounding. A cell has none of them, or:
    derivative: the derivative of a whole sequence; without it JAX differentiates the scan of `step`.
    native: its loops compiled for a CPU, which need `derivative` for every other device.
    is_cudnn_lstm: whether it is the LSTM that `lmseq/recurrence/cudnn.py` computes on a GPU.
    coefficients: of a linear recurrence h_t = a_t h_{t-1} + b_t, (weights, inputs (..., G * H)) -> a, b,
        (..., H) each.

    Cells are equal if all fields are, so make each once, at the top of a module: JAX compiles anew for a cell
    that is not equal to the one before. Raises ValueError for an input_bias that has not one number a gate.
    """

    name: str
    num_gates: int
    step: Step
    init_state: Callable[[int, int], LayerState] = zeros
    output: Callable[[LayerState], Float[Array, "*dims hidden"]] = whole
    has_kernel: bool = True
    has_bias: bool = False
    first_bias: Callable[[PRNGKey, int], Float[Array, "hidden"]] | None = None
    input_bias: tuple[float, ...] = ()
    derivative: Derivative | None = None
    native: Native | None = None
    is_cudnn_lstm: bool = False
    coefficients: Callable[[Recurrent | None, Float[Array, "*dims gates"]], tuple[Array, Array]] | None = None

    def __post_init__(self) -> None:
        if self.input_bias and len(self.input_bias) != self.num_gates:
            raise ValueError(
                f"expected input_bias of cell {self.name} to hold a number for each of its {self.num_gates} "
                f"gates, got {self.input_bias}"
            )
        if self.native is not None and self.derivative is None:
            raise ValueError(f"cell {self.name} has compiled loops: give it a derivative too")

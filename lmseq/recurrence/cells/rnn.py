"""The tanh RNN (Elman 1990): h' = tanh(x + h U)."""

from jax import lax

from lmseq.layers import Precision
from lmseq.recurrence.activations import tanh
from lmseq.recurrence.cells.cell import Cell, Derivative, Gates, Native, Recurrent, State, project


def step(weights: Recurrent, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = tanh(x + h U) for a projected input x (B, H)."""
    return tanh(x + project(state, weights.kernel, precision))


def _step_kept(weights, state, x, precision):
    """The derivative needs no more than the states: tanh' = 1 - h^2."""
    return step(weights, state, x, precision), ()


def _deltas(back, initial, states, kept, d_last, d_outputs):
    """delta = dh (1 - h^2), dh_{t-1} = delta U^T."""

    def step_back(d_hidden, factors):
        slope, d_output = factors
        delta = (d_hidden + d_output) * slope
        return back(delta), delta

    d_state, deltas = lax.scan(step_back, d_last, (1.0 - states * states, d_outputs), reverse=True)
    return deltas, None, d_state


def _forward(call, weights, state, inputs, keep):
    steps = (inputs.time, *state.shape)
    (outputs,) = call([steps], *inputs.arrays(), weights.kernel, state)
    return outputs[-1], outputs, (outputs, ())


def _backward(call, transposed, initial, states, kept, d_last, d_outputs):
    results = [call.operands(d_outputs.shape), d_last.shape]
    deltas, d_state = call(results, transposed, states, d_outputs, d_last)
    return deltas, None, d_state


RNN = Cell("rnn", 1, step, derivative=Derivative(_step_kept, _deltas), native=Native(_forward, _backward))

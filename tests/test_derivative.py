"""The written-out derivative of a sequence against autodiff of the reference scan, in float64."""

import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lmseq.recurrence import derivative, unrolled
from lmseq.recurrence.cells import CELLS
from lmseq.recurrence.cells.cell import Inputs
from lmseq.recurrence.cells.lstm import LSTM
from tests.oracles import cell_inputs

H = 5
every_derivative = pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if cell.derivative is not None], ids=lambda cell: cell.name
)


def inputs(cell, batch, time, hidden=H, dtype=np.float64):
    """Weights, a state that is not zero, and projected inputs (T, B, G * H)."""
    return cell_inputs(cell, time, batch, hidden, batch + time, dtype)


def reference(cell, weights, state, xs):
    """Autodiff's way: the scan, of any number of layers' worth of steps."""
    states = unrolled.scan_states(cell, weights, state, xs)
    return jax.tree.map(lambda leaf: leaf[-1], states), cell.output(states)


def fast(cell, weights, state, xs):
    return unrolled.unroll_layer(cell, weights, state, xs)


def loss(unroll, cell, weights, masked, reset):
    """Of every output where the mask holds and of the last state; a reset replaces the initial state."""
    rng = np.random.default_rng(0)

    def value(args):
        layers, state, xs = args
        if reset:
            state = jax.tree.map(jnp.zeros_like, jax.tree.map(jax.lax.stop_gradient, state))
        outputs, total = None, 0.0
        for recurrent in layers:
            if outputs is not None:
                xs = jnp.concatenate([outputs] * (xs.shape[-1] // outputs.shape[-1]), axis=-1)
            last, outputs = unroll(cell, recurrent, state, xs)
            total += sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(last))
        weight = weights if not masked else weights * (rng.random(weights.shape) < 0.5)
        return total + jnp.sum(weight * outputs**2)

    return value


def shapes_and_cases():
    """Every shape, and every case of one of them; the other pairs are slow tests."""
    for case, time, batch in product(("plain", "masked", "reset", "two layers"), (1, 2, 7, 64), (1, 3)):
        again = case != "plain" and (time, batch) != (7, 3)
        yield pytest.param(case, time, batch, marks=pytest.mark.slow if again else ())


@every_derivative
@pytest.mark.parametrize("case, time, batch", list(shapes_and_cases()))
def test_gradients_are_those_of_the_scan(cell, batch, time, case):
    with jax.enable_x64(True):
        weights, state, xs = inputs(cell, batch, time)
        layers = [weights] * (2 if case == "two layers" else 1)
        scale = jnp.asarray(np.random.default_rng(1).normal(size=(time, batch, H)))
        found, expected = (
            jax.jit(jax.value_and_grad(loss(unroll, cell, scale, case == "masked", case == "reset")))(
                (layers, state, xs)
            )
            for unroll in (fast, reference)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected)


@every_derivative
def test_gradients_are_those_of_differences(cell):
    with jax.enable_x64(True):
        unroll = jax.jit(lambda *args: fast(cell, *args))
        check_grads(unroll, inputs(cell, 2, 4), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@every_derivative
def test_bfloat16_products_keep_a_float32_state_near(cell):
    weights, state, xs = inputs(cell, 3, 64, hidden=32, dtype=np.float32)
    weights = weights._replace(kernel=weights.kernel / 4)
    scale = jnp.asarray(np.random.default_rng(1).normal(size=(64, 3, 32)), jnp.float32)

    def value(precision):
        def unroll(cell, weights, state, xs):
            return unrolled.unroll_layer(cell, weights, state, xs, precision)

        return jax.value_and_grad(loss(unroll, cell, scale, False, False))(([weights], state, xs))

    (rough, rough_slopes), (exact, slopes) = value("bfloat16"), value("float32")
    assert rough.dtype == jnp.float32
    assert rough != exact
    assert abs(rough - exact) < 0.02 * np.abs(np.asarray(scale)).sum()
    for found, expected in zip(jax.tree.leaves(rough_slopes), jax.tree.leaves(slopes), strict=True):
        assert found.dtype == expected.dtype == jnp.float32
        assert jnp.linalg.norm(found - expected) < 0.05 * jnp.linalg.norm(expected)


def products_in_loops(program: str, shape: tuple[int, int]) -> int:
    """How many instructions of compiled HLO make an array of a shape inside the body of a loop."""
    bodies = {
        name: text
        for name, text in re.findall(r"^(?:ENTRY )?%?([\w.-]+) \(.*?\{\n(.*?)^\}", program, re.M | re.S)
    }
    inside, todo = set(), re.findall(r"body=%?([\w.-]+)", program)
    while todo:
        name = todo.pop()
        if name in bodies and name not in inside:
            inside.add(name)
            todo += re.findall(r"(?:body|calls|to_apply)=%?([\w.-]+)", bodies[name])
    made = re.compile(rf"= f32\[{shape[0]},{shape[1]}\]\S* (?:dot|add|fusion|custom-call)\(")
    return sum(len(made.findall(bodies[name])) for name in inside)


@every_derivative
def test_no_loop_accumulates_a_weight_gradient(cell):
    hidden = 24
    args = inputs(cell, 3, 9, hidden, np.float32)
    scale = jnp.ones((9, 3, hidden))
    shape = (hidden, cell.num_gates * hidden)
    counts = []
    for unroll in (fast, reference):
        step = jax.jit(jax.grad(loss(unroll, cell, scale, False, False)))
        counts.append(products_in_loops(step.lower(([args[0]], *args[1:])).compile().as_text(), shape))
    assert counts[0] == 0 < counts[1]


def test_the_forward_pass_alone_keeps_nothing():
    args = inputs(LSTM, 3, 9, 24, np.float32)
    program = (
        jax.jit(
            lambda weights, state, xs: derivative.unroll(LSTM, "float32", "scan", weights, state, Inputs(xs))
        )
        .lower(*args)
        .as_text()
    )
    assert "9x3x96" in program  # the inputs
    assert program.count("dynamic_update_slice") == 1  # the outputs

"""An LSTM layer by cuDNN's kernel, through `jax.experimental.rnn` (Appleyard et al. 2016).

It multiplies the layer's inputs by its weights itself, so that it takes them unprojected.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import rnn
from jaxtyping import Array, Float

from lmseq.contract import batch_major
from lmseq.layers import Precision, product
from lmseq.recurrence import derivative
from lmseq.recurrence.cells.cell import Inputs, Recurrent
from lmseq.recurrence.cells.lstm import LSTM, LstmState

CHECKED_TO = 1e-4  # of a small layer's outputs and gradients, against the scan's


def unroll_layer(
    input_kernel: Float[Array, "feature gates"],
    input_bias: Float[Array, "gates"],
    weights: Recurrent,
    state: LstmState,
    xs: Float[Array, "time batch feature"],
    precision: Precision,
) -> tuple[LstmState, Float[Array, "time batch hidden"]]:
    """Last state and outputs (T, B, H) of an LSTM layer over inputs (T, B, D), in float32 or tf32."""
    (time, batch, width), hidden = xs.shape, weights.kernel.shape[0]
    # cuDNN packs its gates as we do, i, f, g, o, but has them by rows, and two biases.
    leaves = input_kernel.T, weights.kernel.T, input_bias, jnp.zeros_like(input_bias)
    packed = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    lengths = jnp.full(batch, time, jnp.int32)
    exactness = lax.Precision.HIGHEST if precision == "float32" else lax.Precision.HIGH
    outputs, last, memory = rnn.lstm(
        batch_major(xs),
        state.hidden[None],
        state.cell[None],
        packed,
        lengths,
        width,
        hidden,
        1,
        0.0,
        False,
        (exactness, exactness),
    )
    return LstmState(last[0], memory[0]), jnp.swapaxes(outputs, 0, 1)


@cache
def is_there() -> bool:
    """Whether JAX's default device has cuDNN, and a small layer's outputs and gradients are the scan's."""
    if jax.default_backend() != "gpu" or rnn.gpu_rnn is None:
        return False
    rng = np.random.default_rng(0)
    shapes = ((3, 16), (16,), (4, 16), (2, 4), (3, 2, 3))
    arguments = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def by_cudnn(kernel, bias, recurrent, hidden, xs):
        state = LstmState(hidden, 0.5 * hidden)
        return unroll_layer(kernel, bias, Recurrent(recurrent), state, xs, "float32")

    def by_scan(kernel, bias, recurrent, hidden, xs):
        state, inputs = LstmState(hidden, 0.5 * hidden), Inputs(product(xs, kernel), bias)
        return derivative.unroll(LSTM, "float32", "scan", Recurrent(recurrent), state, inputs)

    def found(layer):
        def value(*arguments):
            leaves = jax.tree.leaves(layer(*arguments))
            return sum(jnp.sum(leaf**2) for leaf in leaves), leaves

        slopes = jax.value_and_grad(value, argnums=tuple(range(len(shapes))), has_aux=True)
        return jax.tree.leaves(jax.jit(slopes)(*arguments))

    with jax.ensure_compile_time_eval():
        try:
            pairs = zip(found(by_cudnn), found(by_scan), strict=True)
            return all(np.allclose(a, b, rtol=CHECKED_TO, atol=CHECKED_TO) for a, b in pairs)
        except (RuntimeError, NotImplementedError):  # the driver's, or XLA's, that it is not there after all
            return False

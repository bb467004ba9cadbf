"""A matrix state as a mixer: its queries, keys, values and decays from the inputs, and its readout."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.layers import Precision, affine, product
from lmseq.mixers.convolution import convolve
from lmseq.mixers.matrix_state import Steps, matrix_states
from lmseq.mixers.mixer import (
    Mixer,
    Row,
    Rows,
    Spread,
    check_heads,
    draw_kernel,
    in_heads,
    out_of_heads,
    rms_norm,
)
from lmseq.types import Params, PRNGKey

Decay = Literal["none", "fixed", "scalar", "vector"]
SMALLEST_READ = 1e-12  # mean square: what is read is small, as small steps write little
GATE_TEMPERATURE = 16.0  # of vector decays: their logarithm is divided by it (Yang et al. 2024)
SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1  # of scalar decays at the start (Dao and Gu 2024)


class MatrixCarry(NamedTuple):
    """S (B, N, d_k, d_v), and the last K - 1 inputs of the convolution (B, K - 1, D); None for K below 2.

    Not an array without entries: those cannot be saved.
    """

    state: Float[Array, "batch head key value"]
    recent: Float[Array, "batch _ feature"] | None


@dataclass(frozen=True)
class MatrixMixer(Mixer):
    """N heads of a matrix state; `matrix_state` has the recurrence.

    key_size, value_size: d_k and d_v of a head; 0 for H / N. decay: none; fixed, 1 - 2^(-5 - n) of head n
    (Sun et al. 2023); scalar, exp(-a D_t) with D_t = softplus of a map of the input and a learned a (Dao and
    Gu 2024); vector, sigmoid of a map of the input to the power 1/16 (Yang et al. 2024). delta_rule: keys
    have unit length, and b_t is max_strength times a sigmoid of a map of the input (Schlag et al. 2021; up to
    2, Grazzi et al. 2025). writes_step: with a scalar decay b_t is D_t, as in Mamba-2. positive: queries and
    keys are elu + 1 (Katharopoulos et al. 2020). convolution: K steps of a short one before queries, keys and
    values, 0 for none. Each head's output is normed, and gated by SiLU of a map of the input.
    """

    num_heads: int
    key_size: int = 0
    value_size: int = 0
    decay: Decay = "none"
    delta_rule: bool = False
    max_strength: float = 1.0
    writes_step: bool = False
    positive: bool = False
    convolution: int = 0
    chunk: int = 64

    def check(self, width: int) -> None:
        """Raise ValueError unless heads divide the width, where a head's sizes are not given."""
        if not (self.key_size and self.value_size):
            check_heads(self.num_heads, width)

    def _sizes(self, width: int) -> tuple[int, int]:
        """All heads' keys, and all heads' values."""
        a_head = width // self.num_heads
        return self.num_heads * (self.key_size or a_head), self.num_heads * (self.value_size or a_head)

    def init(self, key: PRNGKey, width: int, spread: Spread) -> Params:
        """The kernel of queries, keys, values and gates side by side, the output's, and what decays need."""
        keys, values = self._sizes(width)
        draws = jax.random.split(key, 7)
        params = {
            "input": draw_kernel(draws[0], width, 2 * keys + 2 * values, spread.inside),
            "norm": jnp.ones(values // self.num_heads),
            "output": draw_kernel(draws[1], values, width, spread.last),
        }
        if self.delta_rule:
            params["strength"] = draw_kernel(draws[2], width, self.num_heads, spread.inside)
            params["strength_bias"] = jnp.zeros(self.num_heads)
        if self.convolution:
            # The newest input passes: a training begins as if there were none but for SiLU.
            params["convolution"] = jnp.zeros((self.convolution, 2 * keys + values)).at[-1].set(1.0)
        if self.decay == "scalar":
            params["decay"] = draw_kernel(draws[3], width, self.num_heads, spread.inside)
            steps = jax.random.uniform(draws[4], (self.num_heads,))
            steps = SHORTEST_STEP * (LONGEST_STEP / SHORTEST_STEP) ** steps
            params["decay_bias"] = jnp.log(jnp.expm1(steps))
            params["decay_rate"] = jnp.log(
                jax.random.uniform(draws[5], (self.num_heads,), minval=1, maxval=16)
            )
        if self.decay == "vector":
            params["decay"] = draw_kernel(draws[3], width, keys, spread.inside)
            params["decay_bias"] = jnp.zeros(keys)
        return params

    def init_carry(self, params: Params, batch_size: int) -> MatrixCarry:
        """Zeros."""
        keys, values = self._sizes(params["output"].shape[1])
        shape = (batch_size, self.num_heads, keys // self.num_heads, values // self.num_heads)
        recent = None
        if self.convolution > 1:
            recent = jnp.zeros((batch_size, self.convolution - 1, 2 * keys + values))
        return MatrixCarry(jnp.zeros(shape), recent)

    def step(self, params: Params, carry: MatrixCarry, x: Row) -> tuple[MatrixCarry, Row]:
        """One step: a chunk of one."""
        carry, outputs = self.unroll(params, carry, x[:, None])
        return carry, outputs[:, 0]

    def unroll(
        self, params: Params, carry: MatrixCarry, xs: Rows, precision: Precision = "float32"
    ) -> tuple[MatrixCarry, Rows]:
        """All steps, in chunks."""
        keys, values = self._sizes(xs.shape[-1])
        projected = product(xs, params["input"], precision)
        mixed, gates = projected[..., : 2 * keys + values], projected[..., 2 * keys + values :]
        recent = carry.recent
        if self.convolution:
            recent, mixed = convolve(params["convolution"], recent, mixed)
            mixed = jax.nn.silu(mixed)
        steps = self._steps(params, xs, *jnp.split(mixed, [keys, 2 * keys], axis=-1))
        state, read = matrix_states(carry.state, steps, delta_rule=self.delta_rule, chunk=self.chunk)
        outputs = out_of_heads(rms_norm(read, params["norm"], SMALLEST_READ)) * jax.nn.silu(gates)
        return MatrixCarry(state, recent), product(outputs, params["output"], precision)

    def _steps(self, params: Params, xs: Rows, queries: Array, keys: Array, values: Array) -> Steps:
        """What drives the state: features of queries and keys, strengths and decays."""
        queries, keys, values = (in_heads(part, self.num_heads) for part in (queries, keys, values))
        if self.positive:
            queries, keys = jax.nn.elu(queries) + 1.0, jax.nn.elu(keys) + 1.0
        strength, log_decay = None, self._fixed_decay(xs)
        if self.delta_rule:
            queries, keys = _unit(queries), _unit(keys)
            strength = affine(xs, params["strength"], params["strength_bias"])
            strength = self.max_strength * jax.nn.sigmoid(strength)
        elif not self.writes_step:
            queries = queries * queries.shape[-1] ** -0.5
        if self.decay == "scalar":
            taken = jax.nn.softplus(affine(xs, params["decay"], params["decay_bias"]))
            log_decay = jnp.broadcast_to(-jnp.exp(params["decay_rate"]), taken.shape) * taken
            if self.writes_step:
                strength = taken
        if self.decay == "vector":
            log_decay = jax.nn.log_sigmoid(affine(xs, params["decay"], params["decay_bias"]))
            log_decay = in_heads(log_decay / GATE_TEMPERATURE, self.num_heads)
        return Steps(queries, keys, values, strength, log_decay)

    def _fixed_decay(self, xs: Rows) -> Float[Array, "1 time head"] | None:
        if self.decay != "fixed":
            return None
        rates = [math.log1p(-(2.0 ** (-5 - n))) for n in range(self.num_heads)]
        return jnp.broadcast_to(jnp.array(rates, xs.dtype), (1, xs.shape[1], self.num_heads))


def _unit(rows: Array) -> Array:
    """Rows of unit length; of zeros, zeros."""
    return rows * jax.lax.rsqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True) + 1e-12)

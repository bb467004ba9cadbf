"""Flax's own recurrent layers under lmseq's contract, so that lmseq's training step trains them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmseq.models.interface import SequenceModule

CELLS = {"rnn": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
GATES = {"rnn": "", "gru": "rzn", "lstm": "ifgo"}


class FlaxLanguageModel(SequenceModule):
    """An embedding, layers of `nn.RNN`, a softmax."""

    vocab_size: int
    cell: str
    hidden_size: int
    num_layers: int

    def setup(self) -> None:
        self.embedding = nn.Embed(self.vocab_size, self.hidden_size)
        self.layers = [
            nn.RNN(CELLS[self.cell](self.hidden_size), return_carry=True) for _ in range(self.num_layers)
        ]
        self.output = nn.Dense(self.vocab_size)

    def init_carry(self, batch_size: int) -> Any:
        def zeros() -> jax.Array:  # new ones each time: a training step donates all that it carries
            return jnp.zeros((batch_size, self.hidden_size))

        is_lstm = self.cell == "lstm"
        return tuple((zeros(), zeros()) if is_lstm else zeros() for _ in range(self.num_layers))

    def readout(self, carry: Any) -> jax.Array:
        last = carry[-1]
        return jax.nn.log_softmax(self.output(last[1] if self.cell == "lstm" else last))

    def unroll(
        self, carry: Any, xs: jax.Array, *, training: bool = False, key: Any = None
    ) -> tuple[Any, jax.Array]:
        outputs, carries = self.embedding(xs), []
        for layer, state in zip(self.layers, carry, strict=True):
            state, outputs = layer(outputs, initial_carry=state)
            carries.append(state)
        return tuple(carries), jax.nn.log_softmax(self.output(outputs))


def flax_params(cell: str, weights: Any) -> dict[str, Any]:
    """The benchmark's weights in Flax's places: a kernel for each gate."""
    params: dict[str, Any] = {
        "embedding": {"embedding": weights.embedding},
        "output": {"kernel": weights.output_kernel, "bias": weights.output_bias},
    }
    for layer, (kernel, bias, recurrent, recurrent_bias) in enumerate(
        zip(
            weights.input_kernels,
            weights.input_biases,
            weights.recurrent_kernels,
            weights.recurrent_biases,
            strict=True,
        )
    ):
        params[f"layers_{layer}"] = {"cell": _cell(cell, kernel, bias, recurrent, recurrent_bias)}
    return params


def _cell(cell: str, kernel: Any, bias: Any, recurrent: Any, recurrent_bias: Any) -> dict[str, Any]:
    if cell == "rnn":
        return {"i": {"kernel": kernel, "bias": bias}, "h": {"kernel": recurrent}}
    names, count = GATES[cell], len(GATES[cell])
    found: dict[str, Any] = {}
    for place, name in enumerate(names):
        of_inputs, of_biases, of_states = (
            np.split(array, count, axis=-1)[place] for array in (kernel, bias, recurrent)
        )
        if cell == "lstm":  # its biases stand with the recurrent kernels
            found[f"i{name}"] = {"kernel": of_inputs}
            found[f"h{name}"] = {"kernel": of_states, "bias": of_biases}
        else:
            found[f"i{name}"] = {"kernel": of_inputs, "bias": of_biases}
            found[f"h{name}"] = {"kernel": of_states}
    if cell == "gru":
        found["hn"]["bias"] = recurrent_bias
    return found

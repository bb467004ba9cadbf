"""Memory of a training step: what XLA plans for it, ours against plain autodiff.

    python -m benchmarks.memory

For recurrent layers, `fast` is lmseq's written-out derivative and `plain` autodiff of the reference scan; for
a softmax over a large vocabulary, `fast` is lmseq's and `plain` a log-softmax and a gather; for `window`, an
LSTM of characters over a long window, `fast` computes anew what it does not keep (--recompute_steps of about
the window's root) and `plain` keeps all. The figures are the bytes of temporary buffers of the compiled
gradient, which no other process disturbs, and their ratios: the plain form's bytes divided by ours. The last
line is a JSON object with `ratios`.
"""

import math
from collections.abc import Callable
from typing import Any

from absl import flags

from benchmarks.measure import hardware, publish, versions
from experiments.frame.command import main_with_flags
from experiments.frame.console import say
from experiments.frame.start import prepare_jax

flags.DEFINE_integer("hidden_size", 256, "units")
flags.DEFINE_integer("batch_size", 32, "rows of a batch")
flags.DEFINE_integer("num_steps", 256, "steps of a window")
flags.DEFINE_integer("vocab_size", 50_000, "symbols of the softmax")
flags.DEFINE_bool("quick", False, "smaller shapes: to see that all works")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["hidden_size", "batch_size", "num_steps", "vocab_size", "quick", "output"]


def planned_bytes(loss: Callable[..., Any], *shapes: Any) -> int:
    """Bytes of temporaries of the gradient with respect to the first argument."""
    import jax

    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def of_layer(name: str, batch_size: int, num_steps: int, hidden_size: int) -> dict[str, int]:
    """One recurrent layer over projected inputs, with respect to its weights and inputs."""
    import jax
    import jax.numpy as jnp

    from lmseq.recurrence import unrolled
    from lmseq.recurrence.cells import cell_named
    from lmseq.recurrence.cells.cell import Recurrent

    cell = cell_named(name)
    gates = cell.num_gates * hidden_size
    bias = jax.ShapeDtypeStruct((hidden_size,), jnp.float32) if cell.has_bias else None
    weights = Recurrent(jax.ShapeDtypeStruct((hidden_size, gates), jnp.float32), bias)
    xs = jax.ShapeDtypeStruct((num_steps, batch_size, gates), jnp.float32)
    state = cell.init_state(batch_size, hidden_size)

    def fast(arguments):
        return unrolled.unroll_layer(cell, arguments[0], state, arguments[1])[1].sum()

    def scan(arguments):
        return cell.output(unrolled.scan_states(cell, arguments[0], state, arguments[1])).sum()

    return {"fast": planned_bytes(fast, (weights, xs)), "plain": planned_bytes(scan, (weights, xs))}


def of_softmax(rows: int, hidden_size: int, vocab_size: int) -> dict[str, int]:
    """The log-probabilities of targets, with respect to inputs, kernel and bias."""
    import jax
    import jax.numpy as jnp

    from lmseq.layers import affine, softmax_log_probs

    shapes = [(rows, hidden_size), (hidden_size, vocab_size), (vocab_size,)]
    floats = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    targets = jax.ShapeDtypeStruct((rows,), jnp.int32)

    def fast(floats, targets):
        return softmax_log_probs(*floats, targets).sum()

    def plain(floats, targets):
        log_probs = jax.nn.log_softmax(affine(*floats))
        return jnp.take_along_axis(log_probs, targets[:, None], axis=-1).sum()

    return {"fast": planned_bytes(fast, floats, targets), "plain": planned_bytes(plain, floats, targets)}


def of_window(batch_size: int, num_steps: int, hidden_size: int) -> dict[str, int]:
    """A window's loss, with respect to the parameters of a model of 65 characters."""
    import jax
    import jax.numpy as jnp

    from lmseq.config.language_model import ModelConfig
    from lmseq.models.build import build_model

    tokens = jax.ShapeDtypeStruct((batch_size, num_steps), jnp.int32)

    def planned(recompute_steps: int) -> int:
        model = build_model(ModelConfig("lstm", hidden_size, recompute_steps=recompute_steps), 65)
        key = jax.random.key(0)

        def loss(params, tokens):
            carry = model.init_carry(params, batch_size)
            return model.token_log_probs(params, carry, tokens, tokens, training=True)[1].sum()

        return planned_bytes(loss, jax.eval_shape(model.init, key), tokens)

    return {"fast": planned(math.isqrt(num_steps)), "plain": planned(0)}


def main() -> int:
    given = flags.FLAGS
    hidden_size, batch_size, num_steps = given.hidden_size, given.batch_size, given.num_steps
    vocab_size = given.vocab_size
    if min(hidden_size, batch_size, num_steps, vocab_size) < 1:
        raise ValueError("expected sizes of at least 1")
    if given.quick:
        hidden_size, batch_size, num_steps, vocab_size = 32, 8, 64, 50_000
    prepare_jax(keep_programs=flags.FLAGS.compilation_cache)
    rows = {cell: of_layer(cell, batch_size, num_steps, hidden_size) for cell in ("rnn", "gru", "lstm")}
    rows["softmax"] = of_softmax(batch_size * num_steps, hidden_size, vocab_size)
    rows["window"] = of_window(batch_size, num_steps, hidden_size)
    ratios = {name: row["plain"] / row["fast"] for name, row in rows.items()}
    for name, row in rows.items():
        fast, plain = (row[kind] / 2**20 for kind in ("fast", "plain"))
        say(f"{name:<8} {fast:9.1f} MiB, plain {plain:9.1f} MiB: {ratios[name]:.2f} times less")
    found = {"hardware": hardware(), "versions": versions("jax", "jaxlib"), "ratios": ratios, "bytes": rows}
    publish(found, given.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

"""Training steps of recurrent language models side by side with PyTorch's and Flax's layers.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.recurrence

A step is forward, backward, clipping by global norm and an update of SGD, of an embedding, one or more
recurrent layers and a softmax, in float32 unless `bf16` is said. All sides begin with the same weights and
must report the same losses over the first steps, with dropout nearly so. Each runs in a process of its own
with all cores, and keeps the memory that it frees; they take turns, and a turn begins when the machine is
idle. A ratio is PyTorch's time divided by ours, in the same type; `scan` is PyTorch's time divided by ours
without compiled loops (which are compiled first, where there is a C++ compiler), `flax` that by Flax's layers
under autodiff, both in six of the rows, `half` our own time in float32 divided by that in bfloat16. With a
GPU all run there, PyTorch through cuDNN. `peaks` are products of matrices of 2,048 x 2,048 on each side, in
GFLOP/s; `peak_share` is the products of a step in the time of the step, as a part of our own peak. The last
line is a JSON object with `ratios`, `peaks` and `peak_share`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.measure import Steps, apart, hardware, publish, timed, versions
from benchmarks.training_steps import CLIP_NORM, LEARNING_RATE, compare, dispatches
from experiments.frame.command import main_with_flags
from experiments.frame.console import say
from experiments.frame.start import keep_pages, prepare_jax
from lmseq.compiled import native_folder


class Work(NamedTuple):
    """Shapes of a training step."""

    cell: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    batch_size: int
    num_steps: int
    dropout: float = 0.0  # of what each layer reads, and of what the softmax reads


WORKS = {
    "rnn_char": Work("rnn", 65, 256, 1, 32, 64),
    "gru_char": Work("gru", 65, 256, 1, 32, 64),
    "lstm_char": Work("lstm", 65, 256, 1, 32, 64),
    "lstm_char_large": Work("lstm", 65, 512, 2, 64, 64),
    "lstm_ptb_small": Work("lstm", 10_000, 200, 2, 20, 20),
    "lstm_ptb_medium": Work("lstm", 10_000, 650, 2, 20, 35),
    "lstm_ptb_dropout": Work("lstm", 10_000, 650, 2, 20, 35, 0.5),
    "lstm_one_row": Work("lstm", 65, 256, 1, 1, 1000),
    "gru_one_row": Work("gru", 65, 256, 1, 1, 1000),
    "lstm_four_rows": Work("lstm", 65, 512, 1, 4, 250),
    "lstm_many_rows": Work("lstm", 65, 256, 1, 256, 64),
    "lstm_wide": Work("lstm", 65, 1024, 1, 32, 64),
    "lstm_deep": Work("lstm", 65, 1150, 3, 20, 70),
}
ALL_SIDES = tuple(WORKS)[:6]  # the rows in which XLA's loops and Flax's layers stand too
GATES = {"rnn": 1, "gru": 3, "lstm": 4}

flags.DEFINE_string("works", ",".join(WORKS), "which rows of the table")
flags.DEFINE_integer("rounds", 5, "turns of each side, of which the median counts")
flags.DEFINE_float("seconds", 1.0, "length of a turn")
flags.DEFINE_bool("torch", True, "also measure PyTorch's layers; without them there are no ratios")
flags.DEFINE_bool("bf16", True, "also measure bfloat16")
flags.DEFINE_bool("scan", True, "also measure XLA's loops, where compiled ones are there")
flags.DEFINE_bool("flax", True, "also measure Flax's layers")
flags.DEFINE_bool("quick", False, "one short turn each, float32 only: to see that all works")
flags.DEFINE_integer("seed", 0, "of weights and tokens")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["works", "rounds", "seconds", "torch", "bf16", "scan", "flax", "quick", "seed", "output"]


class Weights(NamedTuple):
    """Initial weights, (D, out) as lmseq has them; of layers, one entry each."""

    embedding: np.ndarray
    input_kernels: list[np.ndarray]
    input_biases: list[np.ndarray]
    recurrent_kernels: list[np.ndarray]
    recurrent_biases: list[np.ndarray]
    output_kernel: np.ndarray
    output_bias: np.ndarray


def draw_weights(work: Work, seed: int) -> Weights:
    """Uniform in plus or minus 1 / sqrt(H), as PyTorch draws them."""
    rng = np.random.default_rng(seed)
    width, gates = work.hidden_size, GATES[work.cell] * work.hidden_size

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-(width**-0.5), width**-0.5, shape).astype(np.float32)

    layers = range(work.num_layers)
    return Weights(
        draw(work.vocab_size, width),
        [draw(width, gates) for _ in layers],
        [draw(gates) for _ in layers],
        [draw(width, gates) for _ in layers],
        [draw(width) for _ in layers],
        draw(width, work.vocab_size),
        draw(work.vocab_size),
    )


def draw_tokens(work: Work, seed: int) -> np.ndarray:
    """Token ids (B, T + 1)."""
    shape = (work.batch_size, work.num_steps + 1)
    return np.random.default_rng([seed, 1]).integers(work.vocab_size, size=shape).astype(np.int32)


def lmseq_steps(work: Work, precision: str, seed: int, backend: str = "auto") -> Steps:
    """Ours."""
    prepare_jax()
    import jax.numpy as jnp

    from lmseq.models.interface import bind
    from lmseq.models.recurrent import RecurrentLanguageModel
    from lmseq.recurrence.cells import cell_named

    cell, weights = cell_named(work.cell), draw_weights(work, seed)
    params = {
        "embedding": weights.embedding,
        "output_kernel": weights.output_kernel,
        "output_bias": weights.output_bias,
    }
    for layer in range(work.num_layers):
        params[f"input_kernel_{layer}"] = weights.input_kernels[layer]
        params[f"input_bias_{layer}"] = weights.input_biases[layer]
        params[f"recurrent_kernel_{layer}"] = weights.recurrent_kernels[layer]
        if cell.has_bias:
            params[f"recurrent_bias_{layer}"] = weights.recurrent_biases[layer]
    module = RecurrentLanguageModel(
        vocab_size=work.vocab_size,
        cell=cell,
        hidden_size=work.hidden_size,
        num_layers=work.num_layers,
        embedding_size=work.hidden_size,
        input_dropout=work.dropout,
        dropout=work.dropout,
        precision=precision,
        backend=backend,
    )
    params = {name: jnp.asarray(value) for name, value in params.items()}
    return dispatches(bind(module), params, draw_tokens(work, seed))


def flax_steps(work: Work, precision: str, seed: int) -> Steps:
    """Flax's `nn.RNN`, in the training step that lmseq's models are trained by; it has no dropout."""
    prepare_jax()
    import jax

    from benchmarks.flax_peer import FlaxLanguageModel, flax_params
    from lmseq.models.interface import bind

    module = FlaxLanguageModel(work.vocab_size, work.cell, work.hidden_size, work.num_layers)
    params = flax_params(work.cell, draw_weights(work, seed))
    return dispatches(bind(module), jax.device_put(params), draw_tokens(work, seed))


def torch_steps(work: Work, precision: str, seed: int) -> Steps:
    """PyTorch's modules, eager; bfloat16 by autocast, weights in float32."""
    keep_pages()
    import contextlib

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer_class = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[work.cell]
    embedding = torch.nn.Embedding(work.vocab_size, work.hidden_size)
    between = work.dropout if work.num_layers > 1 else 0.0
    layers = layer_class(work.hidden_size, work.hidden_size, work.num_layers, dropout=between)
    readout = torch.nn.Linear(work.hidden_size, work.vocab_size)
    set_torch_weights(work, embedding, layers, readout, draw_weights(work, seed))
    modules = torch.nn.ModuleList([embedding, layers, readout]).to(device)
    optimizer = torch.optim.SGD(modules.parameters(), lr=LEARNING_RATE)
    tokens = torch.from_numpy(draw_tokens(work, seed).T.astype(np.int64)).to(device)
    autocast = (
        torch.autocast(device, dtype=torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
    )

    def drop(x: Any) -> Any:
        return torch.nn.functional.dropout(x, work.dropout) if work.dropout else x

    def one_step() -> list[float]:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            outputs, _ = layers(drop(embedding(tokens[:-1])))
            logits = readout(drop(outputs))
        loss = torch.nn.functional.cross_entropy(
            logits.float().reshape(-1, work.vocab_size), tokens[1:].reshape(-1)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), CLIP_NORM)
        optimizer.step()
        return [loss.item()]

    return one_step, 1


def set_torch_weights(work: Work, embedding: Any, layers: Any, readout: Any, weights: Weights) -> None:
    """Ours in PyTorch's places; its second bias is zero but where the GRU has one."""
    import torch

    with torch.no_grad():
        embedding.weight.copy_(torch.from_numpy(weights.embedding))
        readout.weight.copy_(torch.from_numpy(weights.output_kernel.T.copy()))
        readout.bias.copy_(torch.from_numpy(weights.output_bias))
        for layer in range(work.num_layers):
            named = dict(layers.named_parameters())
            second = np.zeros_like(weights.input_biases[layer])
            if work.cell == "gru":
                second[-work.hidden_size :] = weights.recurrent_biases[layer]
            values = {
                "weight_ih": weights.input_kernels[layer].T.copy(),
                "weight_hh": weights.recurrent_kernels[layer].T.copy(),
                "bias_ih": weights.input_biases[layer],
                "bias_hh": second,
            }
            for name, value in values.items():
                named[f"{name}_l{layer}"].copy_(torch.from_numpy(value))


def scan_steps(work: Work, precision: str, seed: int) -> Steps:
    """Ours in nothing but JAX."""
    return lmseq_steps(work, precision, seed, backend="scan")


BUILDERS = {"torch": torch_steps, "lmseq": lmseq_steps, "scan": scan_steps, "flax": flax_steps}


PEAK_SIZE, PEAK_ROUNDS = 2048, 15


def _peak(multiply: Callable[[], Any]) -> float:
    multiply()
    return 2e-9 * PEAK_SIZE**3 / min(timed(multiply)[0] for _ in range(PEAK_ROUNDS))


def lmseq_peaks() -> dict[str, float]:
    """GFLOP/s of products in float32 and in bfloat16, as XLA has them, at their best."""
    prepare_jax()
    import jax
    import jax.numpy as jnp

    from lmseq.layers import product

    found = {}
    for kind in ("float32", "bfloat16"):
        x = jnp.ones((PEAK_SIZE, PEAK_SIZE), kind)
        multiply = jax.jit(partial(product, precision=kind))
        found[kind] = _peak(lambda x=x, multiply=multiply: multiply(x, x).block_until_ready())
    return found


def torch_peaks() -> dict[str, float]:
    """The same of PyTorch."""
    keep_pages()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for kind in ("float32", "bfloat16"):
        x = torch.ones((PEAK_SIZE, PEAK_SIZE), dtype=getattr(torch, kind), device=device)
        found[kind] = _peak(lambda x=x: (x @ x)[0, 0].item())
    return found


def num_operations(work: Work) -> float:
    """Floating-point operations of the products of a step: forward, and twice as many for the gradients.

    Of a vocabulary smaller than the batch, the first layer's inputs are as many as its words.
    """
    rows, width = work.batch_size * work.num_steps, work.hidden_size
    layer = width * GATES[work.cell] * width  # of inputs, or of states
    first = min(rows, work.vocab_size) * layer
    others = rows * ((2 * work.num_layers - 1) * layer + width * work.vocab_size)
    return 3 * 2.0 * (first + others)


def compile_loops() -> bool:
    """Whether the compiled loops are there, or could be made."""
    from lmseq.recurrence import library

    folder = native_folder()
    try:
        if not library.LIBRARY.path(folder).exists():
            say("compiling the loops of recurrent layers")
            library.LIBRARY.compile(folder)
    except (ValueError, OSError) as error:
        say(f"without compiled loops: {error}")
        return False
    return True


def main() -> int:
    names = [name.strip() for name in flags.FLAGS.works.split(",")]
    unknown = [name for name in names if name not in WORKS]
    if unknown:
        raise ValueError(f"expected --works out of {', '.join(WORKS)}, got {unknown[0]!r}")
    rounds, seconds, quick = flags.FLAGS.rounds, flags.FLAGS.seconds, flags.FLAGS.quick
    if rounds < 1 or not 0 < seconds < 1e3 or flags.FLAGS.seed < 0:
        raise ValueError("expected rounds of at least 1, seconds of a turn above 0, a seed of at least 0")
    torch = flags.FLAGS.torch
    sides = [("torch", "float32")] * torch + [("lmseq", "float32")]
    # Without what is to be compared with, nothing is compiled in vain.
    compiled = (not torch or "torch" in versions("torch")) and compile_loops()
    if not quick:
        sides += [("scan", "float32")] * (flags.FLAGS.scan and compiled)
        sides += [("flax", "float32")] * flags.FLAGS.flax
        sides += ([("torch", "bfloat16")] * torch + [("lmseq", "bfloat16")]) * flags.FLAGS.bf16
    turns = (flags.FLAGS.seed, 1 if quick else rounds, 0.3 if quick else seconds)
    rows = {}
    for name in names:
        without = set() if name in ALL_SIDES else {"flax", "scan"}
        rows[name] = compare(
            name, WORKS[name], BUILDERS, [side for side in sides if side[0] not in without], *turns
        )
    peaks = {"lmseq": apart(lmseq_peaks)} | ({"torch": apart(torch_peaks)} if torch else {})
    for side, kinds in peaks.items():
        say(f"{side}: products at {', '.join(f'{peak:.0f} GFLOP/s in {k}' for k, peak in kinds.items())}")
    ratios: dict[str, float] = {}
    shares: dict[str, float] = {}
    for name, row in rows.items():
        medians = {label: values[0] for label, values in row["milliseconds"].items()}
        for kind, end in (("float32", ""), ("bfloat16", "_bf16")):
            if f"lmseq{end}" in medians:
                speed = 1e-6 * num_operations(WORKS[name]) / medians[f"lmseq{end}"]
                shares[f"{name}{end}"] = speed / peaks["lmseq"][kind]
            if torch and f"lmseq{end}" in medians:
                ratios[f"{name}{end}"] = medians[f"torch{end}"] / medians[f"lmseq{end}"]
        for side in ({"scan", "flax"} & medians.keys()) if torch else ():
            ratios[f"{name}_{side}"] = medians["torch"] / medians[side]
        if "lmseq_bf16" in medians:
            ratios[f"{name}_half"] = medians["lmseq"] / medians["lmseq_bf16"]
    found = {"hardware": hardware(), "versions": versions("jax", "jaxlib", "flax", "torch")}
    figures = {"ratios": ratios, "peaks": peaks, "peak_share": shares}
    publish(found | {"compiled_loops": compiled} | figures | {"rows": rows}, flags.FLAGS.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

"""Training and sampling of attention and of matrix states, side by side with PyTorch's.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.contexts

A step is forward, backward, clipping by global norm and an update of SGD, of four residual blocks of four
heads and 128 features over 65 symbols, in float32: attention to all T tokens (of 4,096, to the last 256),
matrix states with one decay a head, and the same with the delta rule. PyTorch has
scaled_dot_product_attention, and the chunked recurrence in its own operations. Both sides begin with the same
weights and must report the same losses over the first steps; each runs in a process of its own with all
cores, and they take turns. A ratio is PyTorch's time divided by ours. Sampling of one stream, with a cache of
64 tokens a layer, is set against the loop that reads its last 64 tokens anew for each one, as nanoGPT's does:
there nothing is compared but time. The last line is a JSON object with `ratios`.
"""

from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.measure import Peer, Steps, hardware, interleaved, publish, versions
from benchmarks.training_steps import CLIP_NORM, LEARNING_RATE, compare, dispatches
from experiments.frame.command import main_with_flags
from experiments.frame.console import say
from experiments.frame.start import prepare_jax


class Work(NamedTuple):
    """Shapes of a training step."""

    model: str
    batch_size: int
    num_steps: int
    window: int = 64
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    vocab_size: int = 65


SHAPES = {64: 12, 256: 4, 1024: 4, 4096: 1}  # steps of a window: rows of a batch
WORKS = {"transformer_train": Work("attention", 12, 64)}
for _steps, _rows in SHAPES.items():
    if _steps > 64:
        _window = _steps if _steps <= 1024 else 256
        WORKS[f"transformer_train_{_steps}"] = Work("attention", _rows, _steps, _window)
    WORKS[f"matrix_train_{_steps}"] = Work("matrix", _rows, _steps)
    WORKS[f"delta_train_{_steps}"] = Work("delta", _rows, _steps)
SAMPLED = 200  # tokens of a stream

flags.DEFINE_string("works", ",".join([*WORKS, "transformer_sample_1"]), "which rows of the table")
flags.DEFINE_integer("rounds", 5, "turns of each side, of which the median counts")
flags.DEFINE_float("seconds", 1.0, "length of a turn")
flags.DEFINE_bool("torch", True, "also measure PyTorch; without it there are no ratios")
flags.DEFINE_bool("quick", False, "one short turn each: to see that all works")
flags.DEFINE_integer("seed", 0, "of weights and tokens")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["works", "rounds", "seconds", "torch", "quick", "seed", "output"]


def model_of(work: Work) -> Any:
    """Ours."""
    from lmseq.config.language_model import ModelConfig
    from lmseq.models.build import build_model

    sizes = {name: getattr(work, name) for name in ("hidden_size", "num_layers", "num_heads", "window")}
    if work.model == "attention":
        return build_model(ModelConfig(model="attention", **sizes), work.vocab_size)
    matrix = ModelConfig(
        model="matrix", decay="scalar", delta_rule=work.model == "delta", convolution=0, **sizes
    )
    return build_model(matrix, work.vocab_size)


def draw_params(work: Work, seed: int) -> Any:
    """Weights by the shapes of the model: kernels of normal numbers that keep the size of rows, else halves.

    Both sides draw them with NumPy, so that they are the same.
    """
    import jax

    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if len(leaf.shape) < 2:
            # Decays that keep something from chunk to chunk, so that losses tell whether chunks are joined.
            value = -5.0 if path[-1].key == "decay_bias" else 0.5
            return np.full(leaf.shape, value, np.float32)
        return (leaf.shape[0] ** -0.5 * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model_of(work).init, jax.random.key(0)))


def draw_tokens(work: Work, seed: int) -> np.ndarray:
    """Token ids (B, T + 1)."""
    shape = (work.batch_size, work.num_steps + 1)
    return np.random.default_rng([seed, 1]).integers(work.vocab_size, size=shape).astype(np.int32)


def lmseq_steps(work: Work, precision: str, seed: int) -> Steps:
    """Ours."""
    prepare_jax()
    import jax

    return dispatches(model_of(work), jax.device_put(draw_params(work, seed)), draw_tokens(work, seed))


def torch_steps(work: Work, precision: str, seed: int) -> Steps:
    """PyTorch's, eager."""
    import torch

    from benchmarks.contexts_peers import as_tensors, leaves, logits

    params = as_tensors(draw_params(work, seed))
    optimizer = torch.optim.SGD(leaves(params), lr=LEARNING_RATE)
    tokens = torch.from_numpy(draw_tokens(work, seed).astype(np.int64))

    def one_step() -> list[float]:
        optimizer.zero_grad(set_to_none=True)
        found = logits(params, tokens[:, :-1], work.num_heads, work.window, min(64, work.num_steps))
        loss = torch.nn.functional.cross_entropy(
            found.reshape(-1, work.vocab_size), tokens[:, 1:].reshape(-1)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves(params), CLIP_NORM)
        optimizer.step()
        return [loss.item()]

    return one_step, 1


def lmseq_tokens(work: Work, precision: str, seed: int) -> Steps:
    """One stream of ours after a prompt that fills the cache; a step is a token."""
    prepare_jax()
    import jax

    from lmseq.generation import generate

    model, params = model_of(work), jax.device_put(draw_params(work, seed))
    prompt, key = draw_tokens(work, seed)[0, : work.window], jax.random.key(seed)

    def stream() -> list[float]:
        return np.asarray(generate(key, model, params, prompt, num_tokens=SAMPLED)).astype(float).tolist()

    return stream, SAMPLED


def torch_tokens(work: Work, precision: str, seed: int) -> Steps:
    """One stream of PyTorch's, whose context is read anew for each token."""
    import torch

    from benchmarks.contexts_peers import as_tensors, logits

    params = as_tensors(draw_params(work, seed))
    prompt = torch.from_numpy(draw_tokens(work, seed)[:1, : work.window].astype(np.int64))

    @torch.no_grad()
    def stream() -> list[float]:
        tokens = prompt
        for _ in range(SAMPLED):
            found = logits(params, tokens[:, -work.window :], work.num_heads, work.window, work.window)
            drawn = torch.multinomial(torch.softmax(found[:, -1], dim=-1), 1)
            tokens = torch.cat([tokens, drawn], dim=1)
        return tokens[0, work.window :].tolist()

    return stream, SAMPLED


BUILDERS = {"torch": torch_steps, "lmseq": lmseq_steps}


def sampling(rounds: int, seconds: float, sides: list[str]) -> dict[str, Any]:
    """Seconds a token of one stream."""
    work, peers = Work("attention", 1, 64), {}
    try:
        for side in sides:
            builder = torch_tokens if side == "torch" else lmseq_tokens
            peers[side] = Peer(builder, work, "float32", flags.FLAGS.seed)
            peers[side].ask("losses", SAMPLED)  # once, which compiles
        spreads, disturbed = interleaved(peers, rounds, seconds)
    finally:
        for peer in peers.values():
            peer.close()
    for side, spread in spreads.items():
        say(f"transformer_sample_1  {side:<6} {1 / spread.median:8.0f} tokens/s")
    milliseconds = {side: [1e3 * x for x in spread] for side, spread in spreads.items()}
    return {"work": work._asdict(), "milliseconds": milliseconds, "disturbed": disturbed}


def main() -> int:
    names = [name.strip() for name in flags.FLAGS.works.split(",")]
    unknown = [name for name in names if name not in (*WORKS, "transformer_sample_1")]
    if unknown:
        raise ValueError(f"expected --works out of {flags.FLAGS['works'].default}, got {unknown[0]!r}")
    rounds, seconds, quick = flags.FLAGS.rounds, flags.FLAGS.seconds, flags.FLAGS.quick
    if rounds < 1 or not 0 < seconds < 1e3 or flags.FLAGS.seed < 0:
        raise ValueError("expected rounds of at least 1, seconds of a turn above 0, a seed of at least 0")
    sides = ["torch"] * flags.FLAGS.torch + ["lmseq"]
    rounds, seconds = (1, 0.3) if quick else (rounds, seconds)
    rows: dict[str, Any] = {}
    for name in names:
        if name in WORKS:
            both = [(side, "float32") for side in sides]
            rows[name] = compare(name, WORKS[name], BUILDERS, both, flags.FLAGS.seed, rounds, seconds)
        else:
            rows[name] = sampling(rounds, seconds, sides)
    ratios = {
        name: row["milliseconds"]["torch"][0] / row["milliseconds"]["lmseq"][0]
        for name, row in rows.items()
        if "torch" in row["milliseconds"]
    }
    found = {"hardware": hardware(), "versions": versions("jax", "jaxlib", "flax", "torch")}
    publish(found | {"ratios": ratios, "rows": rows}, flags.FLAGS.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

"""Sampling from an LSTM side by side with loops over PyTorch's `nn.LSTMCell` and `nn.LSTM`.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.sampling

An embedding, an LSTM layer and a softmax draw tokens, one stream or many at once; every token is an input of
the next step. Works: `plain`, 65 symbols as the model has them; `cut`, the same from the 20 likeliest and of
those from 0.9 of the mass; `words`, 10,000 symbols and 650 units, from the 40 likeliest. PyTorch cuts with
`topk` and draws among what is left. All sides have the same weights, and the mean log-probability of what
they drew must agree: they draw from the same distribution. Each runs in a process of its own; they take
turns. A ratio is ours in tokens per second divided by that of the faster of PyTorch's two loops. The last
line is a JSON object with `ratios`.
"""

from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.measure import Peer, Steps, hardware, interleaved, publish, versions
from experiments.frame.command import main_with_flags
from experiments.frame.console import numbers, say
from experiments.frame.start import prepare_jax


class Work(NamedTuple):
    """An LSTM, and how its tokens are drawn; streams: how many in turn, of at most so many tokens a call."""

    streams: tuple[int, ...]
    most_tokens: int
    hidden_size: int = 256
    vocab_size: int = 65
    top_k: int = 0
    top_p: float = 1.0


class Shape(NamedTuple):
    """A work with one number of streams; the length of each."""

    work: Work
    streams: int
    num_tokens: int
    seed: int


WORKS = {
    "plain": Work((1, 256), 1 << 18),
    "cut": Work((1, 16, 1024), 1 << 18, top_k=20, top_p=0.9),
    "words": Work((1, 16, 1024), 1 << 13, hidden_size=650, vocab_size=10_000, top_k=40),
}
flags.DEFINE_string("works", ",".join(WORKS), "which rows of the table")
flags.DEFINE_string("streams", "", "numbers of streams; without it, each work's own")
flags.DEFINE_integer("num_tokens", 256, "tokens of each stream in one call, or fewer of many streams")
flags.DEFINE_integer("rounds", 5, "turns of each side, of which the median counts")
flags.DEFINE_float("seconds", 1.5, "length of a turn, or more")
flags.DEFINE_bool("torch", True, "also measure PyTorch's loops; without them there are no ratios")
flags.DEFINE_bool("quick", False, "one short turn each: to see that all works")
flags.DEFINE_integer("seed", 0, "of the weights")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["works", "streams", "num_tokens", "rounds", "seconds", "torch", "quick", "seed", "output"]
SAME = 0.1  # nats: largest difference of mean log-probabilities, over at least LEAST tokens
LEAST = 8192


def draw_weights(hidden_size: int, vocab_size: int, seed: int) -> dict[str, np.ndarray]:
    """Uniform in plus or minus 2 / sqrt(H): far enough from uniform distributions to tell them apart."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embedding": (vocab_size, hidden_size),
        "input_kernel_0": (hidden_size, 4 * hidden_size),
        "input_bias_0": (4 * hidden_size,),
        "recurrent_kernel_0": (hidden_size, 4 * hidden_size),
        "output_kernel": (hidden_size, vocab_size),
        "output_bias": (vocab_size,),
    }
    bound = 2.0 * hidden_size**-0.5
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def lmseq_tokens(shape: Shape) -> Steps:
    """Ours: one jitted scan for all streams."""
    prepare_jax()
    (_, _, hidden_size, vocab_size, top_k, top_p), streams, num_tokens, seed = shape
    import itertools

    import jax
    import jax.numpy as jnp

    from lmseq.generation import sample_streams
    from lmseq.models.interface import bind
    from lmseq.models.recurrent import RecurrentLanguageModel
    from lmseq.recurrence.cells.lstm import LSTM
    from lmseq.sampling import Decoding

    module = RecurrentLanguageModel(
        vocab_size=vocab_size, cell=LSTM, hidden_size=hidden_size, embedding_size=hidden_size
    )
    model, keys = bind(module), itertools.count()
    params = jax.device_put(draw_weights(hidden_size, vocab_size, seed))
    prompt = jnp.zeros(1, jnp.int32)

    def work() -> list[float]:
        samples = sample_streams(
            jax.random.key(next(keys)),
            model,
            params,
            prompt,
            num_samples=streams,
            num_tokens=num_tokens,
            decoding=Decoding(top_k=top_k, top_p=top_p),
        )
        return [float(np.asarray(samples.log_probs).mean())]

    return work, num_tokens * streams


def torch_tokens(kind: str, shape: Shape) -> Steps:
    """PyTorch's: a Python loop over `nn.LSTMCell`, or over `nn.LSTM` with one step at a time."""
    import torch

    (_, _, hidden_size, vocab_size, top_k, top_p), streams, num_tokens, seed = shape

    torch.manual_seed(seed)
    torch.set_grad_enabled(False)
    weights = {
        name: torch.from_numpy(value) for name, value in draw_weights(hidden_size, vocab_size, seed).items()
    }
    embedding = torch.nn.Embedding(vocab_size, hidden_size)
    readout = torch.nn.Linear(hidden_size, vocab_size)
    layer = (torch.nn.LSTMCell if kind == "cell" else torch.nn.LSTM)(hidden_size, hidden_size)
    embedding.weight.copy_(weights["embedding"])
    readout.weight.copy_(weights["output_kernel"].T)
    readout.bias.copy_(weights["output_bias"])
    kernel, recurrent, bias, second = layer.parameters()
    kernel.copy_(weights["input_kernel_0"].T)
    recurrent.copy_(weights["recurrent_kernel_0"].T)
    bias.copy_(weights["input_bias_0"])
    second.zero_()

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        if kind == "cell":
            state = layer(embedding(tokens), state)
            return readout(state[0]), state
        outputs, state = layer(embedding(tokens)[None], state)
        return readout(outputs[0]), state

    def choose(log_probs: Any) -> Any:
        if not top_k:
            return torch.multinomial(log_probs.exp(), 1)
        ranked, ids = torch.topk(log_probs, top_k)
        probs = torch.softmax(ranked, dim=-1)
        if top_p < 1.0:
            probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
        return ids.gather(1, torch.multinomial(probs, 1))

    def work() -> list[float]:
        logits, state = step(torch.zeros(streams, dtype=torch.long), None)
        drawn = []
        for _ in range(num_tokens):
            log_probs = torch.log_softmax(logits, dim=-1)
            tokens = choose(log_probs)
            drawn.append(log_probs.gather(1, tokens))
            logits, state = step(tokens[:, 0], state)
        return [float(torch.cat(drawn).mean())]

    return work, num_tokens * streams


def compare(name: str, shape: Shape, rounds: int, seconds: float) -> dict[str, Any]:
    """Tokens per second of each side, after what they draw was found as likely."""
    peers = {"lmseq": Peer(lmseq_tokens, shape)}
    if flags.FLAGS.torch:
        peers["LSTMCell"] = Peer(torch_tokens, "cell", shape)
        peers["nn.LSTM"] = Peer(torch_tokens, "layer", shape)
    try:
        calls = max(-(-LEAST // (shape.streams * shape.num_tokens)), 1)
        likely = {name: float(np.mean(peer.ask("losses", calls))) for name, peer in peers.items()}
        if max(likely.values()) - min(likely.values()) > SAME:
            raise ArithmeticError(
                f"expected samples of the same distribution, log-probabilities are {likely}"
            )
        spreads, disturbed = interleaved(peers, rounds, seconds)
    finally:
        for peer in peers.values():
            peer.close()
    rates = {name: [1.0 / x for x in spread] for name, spread in spreads.items()}
    for side, (median, most, least) in rates.items():
        spread = f"[{least / 1e3:.1f}, {most / 1e3:.1f}]"
        say(f"{name:<12} {side:<9} {median / 1e3:8.1f}k tokens/s {spread}")
    ratio = None
    if flags.FLAGS.torch:
        ratio = rates["lmseq"][0] / max(rates["nn.LSTM"][0], rates["LSTMCell"][0])
        say(f"{name:<12} {ratio:.2f} times")
    return {
        "name": name,
        **shape.work._asdict(),
        "streams": shape.streams,
        "num_tokens": shape.num_tokens,
        "ratio": ratio,
        "tokens_per_second": rates,
        "mean_log_prob": likely,
        "disturbed": disturbed,
    }


def shapes() -> dict[str, Shape]:
    """The rows that the flags ask for, by name: the work and the streams."""
    given, found = flags.FLAGS, {}
    for name in (name.strip() for name in given.works.split(",")):
        if name not in WORKS:
            raise ValueError(f"expected --works out of {', '.join(WORKS)}, got {name!r}")
        work = WORKS[name]
        for count in numbers(given.streams, "streams") if given.streams else work.streams:
            num_tokens = max(1, min(given.num_tokens, work.most_tokens // count))
            found[f"{name}_{count}"] = Shape(work, count, num_tokens, given.seed)
    return found


def main() -> int:
    given = flags.FLAGS
    if min(given.num_tokens, given.rounds) < 1 or given.seed < 0 or not 0 < given.seconds < 1e3:
        raise ValueError(
            "expected num_tokens and rounds of at least 1, a seed of at least 0, seconds above 0"
        )
    rounds, seconds = (1, 0.3) if given.quick else (given.rounds, given.seconds)
    rows = [compare(name, shape, rounds, seconds) for name, shape in shapes().items()]
    found = {
        "hardware": hardware(),
        "versions": versions("jax", "jaxlib", "torch"),
        "ratios": {row["name"]: row["ratio"] for row in rows if row["ratio"]},
        "rows": rows,
    }
    publish(found, given.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

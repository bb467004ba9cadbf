"""Sampling from an LSTM side by side with loops over PyTorch's `nn.LSTMCell` and `nn.LSTM`.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.sampling

An embedding, an LSTM layer and a softmax draw tokens, one stream or many at once; every token is an input of
the next step. All sides have the same weights, and the mean log-probability of what they drew must agree:
they draw from the same distribution. Each runs in a process of its own; they take turns. A ratio is ours in
tokens per second divided by PyTorch's: of one stream by the faster of its two loops, of many by that over
`nn.LSTM`. The last line is a JSON object with `ratios`.
"""

from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import Peer, Steps, hardware, interleaved, publish, versions
from experiments.frame.command import main_with_flags
from experiments.frame.console import numbers, say
from experiments.frame.start import prepare_jax

flags.DEFINE_string("streams", "1,256", "numbers of streams")
flags.DEFINE_integer("num_tokens", 256, "tokens of each stream in one call")
flags.DEFINE_integer("hidden_size", 256, "units")
flags.DEFINE_integer("vocab_size", 65, "symbols")
flags.DEFINE_integer("rounds", 5, "turns of each side, of which the median counts")
flags.DEFINE_float("seconds", 1.5, "length of a turn, or more")
flags.DEFINE_bool("torch", True, "also measure PyTorch's loops; without them there are no ratios")
flags.DEFINE_bool("quick", False, "one short turn each: to see that all works")
flags.DEFINE_integer("seed", 0, "of the weights")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["streams", "num_tokens", "hidden_size", "vocab_size", "rounds", "seconds", "torch", "quick", "seed"]
NAMES += ["output"]
Shape = tuple[int, int, int, int, int]  # streams, tokens, units, symbols, seed
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


def lmseq_tokens(streams: int, num_tokens: int, hidden_size: int, vocab_size: int, seed: int) -> Steps:
    """Ours: one jitted scan for all streams."""
    prepare_jax()
    import itertools

    import jax
    import jax.numpy as jnp

    from lmseq.generation import sample_streams
    from lmseq.models.interface import bind
    from lmseq.models.recurrent import RecurrentLanguageModel
    from lmseq.recurrence.cells.lstm import LSTM

    module = RecurrentLanguageModel(
        vocab_size=vocab_size, cell=LSTM, hidden_size=hidden_size, embedding_size=hidden_size
    )
    model, keys = bind(module), itertools.count()
    params = jax.device_put(draw_weights(hidden_size, vocab_size, seed))
    prompt = jnp.zeros(1, jnp.int32)

    def work() -> list[float]:
        samples = sample_streams(
            jax.random.key(next(keys)), model, params, prompt, num_samples=streams, num_tokens=num_tokens
        )
        return [float(np.asarray(samples.log_probs).mean())]

    return work, num_tokens * streams


def torch_tokens(
    kind: str, streams: int, num_tokens: int, hidden_size: int, vocab_size: int, seed: int
) -> Steps:
    """PyTorch's: a Python loop over `nn.LSTMCell`, or over `nn.LSTM` with one step at a time."""
    import torch

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

    def work() -> list[float]:
        logits, state = step(torch.zeros(streams, dtype=torch.long), None)
        drawn = []
        for _ in range(num_tokens):
            log_probs = torch.log_softmax(logits, dim=-1)
            tokens = torch.multinomial(log_probs.exp(), 1)
            drawn.append(log_probs.gather(1, tokens))
            logits, state = step(tokens[:, 0], state)
        return [float(torch.cat(drawn).mean())]

    return work, num_tokens * streams


def compare(shape: Shape, rounds: int, seconds: float) -> dict[str, Any]:
    """Tokens per second of each side, after what they draw was found as likely."""
    peers = {"lmseq": Peer(lmseq_tokens, *shape)}
    if flags.FLAGS.torch:
        peers["LSTMCell"] = Peer(torch_tokens, "cell", *shape)
        peers["nn.LSTM"] = Peer(torch_tokens, "layer", *shape)
    try:
        calls = max(-(-LEAST // (shape[0] * shape[1])), 1)
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
    for name, (median, most, least) in rates.items():
        spread = f"[{least / 1e3:.1f}, {most / 1e3:.1f}]"
        say(f"{shape[0]:>4} streams {name:<9} {median / 1e3:8.1f}k tokens/s {spread}")
    ratio = None
    if flags.FLAGS.torch:
        others = rates["nn.LSTM"][0] if shape[0] > 1 else max(rates["nn.LSTM"][0], rates["LSTMCell"][0])
        ratio = rates["lmseq"][0] / others
        say(f"{shape[0]:>4} streams: {ratio:.1f} times")
    return {
        "streams": shape[0],
        "ratio": ratio,
        "tokens_per_second": rates,
        "mean_log_prob": likely,
        "disturbed": disturbed,
    }


def main() -> int:
    given = flags.FLAGS
    counts = numbers(given.streams, "streams")
    sizes = given.num_tokens, given.hidden_size, given.vocab_size, given.seed
    if min(*sizes[:3], given.rounds) < 1 or given.seed < 0 or not 0 < given.seconds < 1e3:
        raise ValueError("expected sizes and rounds of at least 1, a seed of at least 0, seconds above 0")
    rounds, seconds = (1, 0.3) if given.quick else (given.rounds, given.seconds)
    rows = [compare((count, *sizes), rounds, seconds) for count in counts]
    found = {
        "hardware": hardware(),
        "versions": versions("jax", "jaxlib", "torch"),
        "ratios": {f"streams_{row['streams']}": row["ratio"] for row in rows if row["ratio"]},
        "rows": rows,
    }
    publish(found, given.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

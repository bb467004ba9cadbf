"""Training steps whose windows come from a map of a file, beside those whose text is on the device.

    python -m benchmarks.feeding

Both train the same model on the same tokens in the same order, with the defaults of `train_lm`, and must
report the same losses. Each runs in a process of its own; they take turns. A ratio is the time of a step with
the text on the device divided by that of one fed from the map: 1 where feeding costs nothing. The last line
is a JSON object with `ratios`.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import Peer, Steps, hardware, interleaved, publish, versions
from experiments.frame.command import main_with_flags
from experiments.frame.console import say
from experiments.frame.start import prepare_jax

flags.DEFINE_string("models", "gru,mlp", "kinds of models")
flags.DEFINE_integer("tokens", 20_000_000, "length of the text")
flags.DEFINE_integer("rounds", 5, "turns of each side, of which the median counts")
flags.DEFINE_float("seconds", 2.0, "length of a turn, or more")
flags.DEFINE_bool("quick", False, "a short text, one short turn each: to see that all works")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["models", "tokens", "rounds", "seconds", "quick", "output"]
VOCAB, FIRST = 65, 50
SIDES = ("device", "map")


def steps_of(side: str, kind: str, file: str) -> Steps:
    """Dispatches of a training on the ids of a file, uint8."""
    prepare_jax()
    import jax

    from lmseq.config.language_model import ModelConfig
    from lmseq.config.training import TrainConfig, settled
    from lmseq.data.partition import LongEpoch
    from lmseq.models.build import build_model
    from lmseq.training import loop, optimizer, sharding, state, train_step
    from lmseq.training.feeding import HostStream, as_elements
    from lmseq.training.job import Batches

    train, mesh = settled(TrainConfig(num_train_steps=10**6)), sharding.make_mesh()
    batches = Batches(partition=partial(LongEpoch, "sequential"))
    model, updates = build_model(ModelConfig(model=kind), VOCAB), optimizer.make_optimizer(train)
    keys, stream = state.split_key(0), np.memmap(file, np.uint8, "r")
    fresh = state.init_training_jit(keys.init, model, updates, batches.batch_size)
    fresh = jax.device_put(fresh, sharding.training_sharding(mesh, fresh))
    tokens = HostStream(stream, batches.num_steps)
    if side == "device":
        tokens = jax.device_put(as_elements(stream), sharding.replicated(mesh))
    plans = loop.PlanStream(partial(batches.plan_of, len(stream), 0))
    dispatch = train_step.make_dispatch(model, updates, batches.num_steps, mesh=mesh)
    run = loop.dispatches(train, plans, dispatch, mesh, fresh, tokens, keys.train)

    def work() -> list[float]:
        totals = next(run).metrics.totals
        return (totals.nll / totals.count).tolist()

    return work, train.steps_per_dispatch


def compare(kind: str, file: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds a step of both sides, after their first losses were found equal."""
    peers = {side: Peer(steps_of, side, kind, file) for side in SIDES}
    try:
        losses = {side: peer.ask("losses", FIRST) for side, peer in peers.items()}
        if losses["map"] != losses["device"]:
            raise ArithmeticError(f"{kind}: expected the same losses, got {losses}")
        spreads, disturbed = interleaved(peers, rounds, seconds)
    finally:
        for peer in peers.values():
            peer.close()
    ratio = spreads["device"].median / spreads["map"].median
    for side, spread in spreads.items():
        say(
            f"{kind:<6} {side:<7}{1e3 * spread.median:8.3f} ms [{1e3 * spread.least:.3f}, "
            f"{1e3 * spread.most:.3f}]"
        )
    say(f"{kind:<6} fed from the map: {ratio:.3f} of the steps a second")
    milliseconds = {side: [1e3 * x for x in spread] for side, spread in spreads.items()}
    return {"ratio": ratio, "milliseconds": milliseconds, "disturbed": disturbed}


def main() -> int:
    given = flags.FLAGS
    if given.rounds < 1 or not 0 < given.seconds < 1e3 or given.tokens < 10_000:
        raise ValueError("expected rounds of at least 1, seconds above 0, tokens of at least 10,000")
    rounds, seconds = (1, 0.2) if given.quick else (given.rounds, given.seconds)
    num_tokens = min(given.tokens, 100_000) if given.quick else given.tokens
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.bin"
        np.random.default_rng(0).integers(VOCAB, size=num_tokens, dtype=np.uint8).tofile(file)
        kinds = [kind.strip() for kind in given.models.split(",")]
        rows = {kind: compare(kind, str(file), rounds, seconds) for kind in kinds}
    ratios = {kind: row["ratio"] for kind, row in rows.items()}
    found = {"hardware": hardware(), "versions": versions("jax", "jaxlib"), "ratios": ratios}
    publish(found | {"tokens": num_tokens, "rows": rows}, given.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

"""Many seeds in one program against the same trainings one after the other, and a process each.

    python -m benchmarks.ensembles

A small recurrent model is trained from S seeds: as an ensemble (on a CPU: shared out over virtual devices,
one for each core), one after the other in one process with all cores, and, for the S of --processes, as S
processes, start-up and compilation included. Members' losses must be those of the single runs. `cost_S` is
the ensemble's time divided by that of the runs, `processes_S` by that of the processes. The last line is a
JSON object with `ratios`.
"""

import os
import sys
from functools import partial
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import (
    Peer,
    Steps,
    hardware,
    interleaved,
    publish,
    run_process,
    versions,
    wait_until_idle,
)
from experiments.frame.command import main_with_flags
from experiments.frame.console import numbers, say
from experiments.frame.start import prepare_jax

flags.DEFINE_string("members", "1,4,16,64", "numbers of seeds")
flags.DEFINE_integer("processes", 16, "number of seeds that are also trained as processes; 0: none")
flags.DEFINE_integer("process_steps", 300, "steps of a training where processes are compared")
flags.DEFINE_string("cell", "lstm", "rnn, gru or lstm")
flags.DEFINE_integer("hidden_size", 64, "units")
flags.DEFINE_integer("batch_size", 32, "rows of a batch")
flags.DEFINE_integer("num_steps", 32, "steps of a window")
flags.DEFINE_integer("rounds", 5, "turns of each side, of which the median counts")
flags.DEFINE_float("seconds", 1.5, "length of a turn, or more")
flags.DEFINE_bool("quick", False, "4 seeds, short turns: to see that all works")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
flags.DEFINE_string("train", "", "used by this script itself: the seeds to train in this process")
NAMES = ["members", "processes", "process_steps", "cell", "hidden_size", "batch_size", "num_steps", "rounds"]
NAMES += ["seconds", "quick", "output", "train"]
VOCAB, DISPATCH, FIRST = 65, 20, 20


class Setting:
    """The model, the data, and how it is trained."""

    def __init__(self, cell: str, hidden_size: int, batch_size: int, num_steps: int, steps: int) -> None:
        from lmseq.config.language_model import ModelConfig
        from lmseq.config.training import TrainConfig
        from lmseq.models.build import build_model

        self.batch_size, self.num_steps = batch_size, num_steps
        self.stream = np.random.default_rng(0).integers(VOCAB, size=200_000).astype(np.int32)
        self.model = build_model(ModelConfig(model=cell, hidden_size=hidden_size), VOCAB)
        self.train = TrainConfig(
            num_train_steps=steps, steps_per_dispatch=DISPATCH, schedule="constant", learning_rate=1e-3
        )

    def plan_of(self, seed: int, epoch: int) -> Any:
        from lmseq.data.partition import epoch_plan

        return epoch_plan("sequential", self.stream.size, self.num_steps, self.batch_size, seed, epoch)

    def together(self, seeds: tuple[int, ...]) -> Any:
        from lmseq.training.ensemble import Members, ensemble_run

        members, sizes = Members(seeds, {}), (self.batch_size, self.num_steps)
        return ensemble_run(self.model, self.train, members, self.stream, self.plan_of, *sizes)


def ensemble_steps(seeds: tuple[int, ...], *shape: Any) -> Steps:
    """One dispatch of all members at a time."""
    prepare_jax(1 if _accelerated() else (os.cpu_count() or 1))
    run = Setting(*shape, 10**6).together(seeds)

    def work() -> list[float]:
        metrics = next(run).metrics
        return (metrics.totals.nll / metrics.totals.count).mean(axis=0).tolist()

    return work, DISPATCH


def single_steps(seeds: tuple[int, ...], *shape: Any) -> Steps:
    """One dispatch of each run after the other, compiled once."""
    prepare_jax()
    import jax

    from lmseq.training import loop, optimizer, sharding, state, train_step

    setting = Setting(*shape, 10**6)
    updates = optimizer.make_optimizer(setting.train)
    mesh = sharding.make_mesh()
    dispatch = train_step.make_dispatch(setting.model, updates, setting.num_steps, mesh=mesh)
    runs = []
    for seed in seeds:
        keys = state.split_key(seed)
        fresh = state.init_training_jit(keys.init, setting.model, updates, setting.batch_size)
        plans = loop.PlanStream(partial(setting.plan_of, seed))
        fresh = jax.device_put(fresh, sharding.training_sharding(mesh, fresh))
        stream = jax.device_put(setting.stream, sharding.replicated(mesh))
        runs.append(loop.dispatches(setting.train, plans, dispatch, mesh, fresh, stream, keys.train))

    def work() -> list[float]:
        totals = [next(run).metrics.totals for run in runs]
        return np.mean([each.nll / each.count for each in totals], axis=0).tolist()

    return work, DISPATCH


def _accelerated() -> bool:
    """Whether JAX will find more than a CPU; asked without starting it."""
    return os.environ.get("JAX_PLATFORMS", "") not in ("", "cpu")


def compare(count: int, shape: tuple[Any, ...], rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds a step of all members, both ways."""
    seeds = tuple(range(count))
    peers = {"together": Peer(ensemble_steps, seeds, *shape), "one by one": Peer(single_steps, seeds, *shape)}
    try:
        losses = [peer.ask("losses", FIRST) for peer in peers.values()]
        if not np.allclose(*losses, rtol=1e-3):
            raise ArithmeticError(f"expected equal losses, got {losses[0]} and {losses[1]}")
        spreads, disturbed = interleaved(peers, rounds, seconds)
    finally:
        for peer in peers.values():
            peer.close()
    cost = spreads["together"].median / spreads["one by one"].median
    for name, spread in spreads.items():
        say(
            f"{count:>3} seeds {name:<12} {1e3 * spread.median:8.2f} ms a step of all "
            f"[{1e3 * spread.least:.2f}, {1e3 * spread.most:.2f}]"
        )
    say(f"{count:>3} seeds together cost {cost:.2f} of one by one")
    milliseconds = {name: [1e3 * x for x in spread] for name, spread in spreads.items()}
    return {"members": count, "cost": cost, "milliseconds": milliseconds, "disturbed": disturbed}


def compare_processes(count: int) -> dict[str, float]:
    """Seconds of one process with all seeds, and of a process for each, everything included."""
    flagged = [f"--{name}={flags.FLAGS[name].value}" for name in NAMES[2:7]]
    command = [sys.executable, "-m", "benchmarks.ensembles", *flagged]
    wait_until_idle()
    together = run_process([*command, "--train=" + ",".join(map(str, range(count)))]).seconds
    apart = sum(run_process([*command, f"--train={seed}"]).seconds for seed in range(count))
    say(f"{count:>3} seeds in a process {together:.1f} s, in {count} processes {apart:.1f} s")
    return {"together": together, "apart": apart, "share": together / apart}


def train_here(seeds: str, shape: tuple[Any, ...]) -> int:
    """What a process of the comparison does."""
    chosen = tuple(int(seed) for seed in seeds.split(","))
    num_devices = 1 if len(chosen) == 1 or _accelerated() else (os.cpu_count() or 1)
    prepare_jax(num_devices, keep_programs=flags.FLAGS.compilation_cache)
    for _ in Setting(*shape, flags.FLAGS.process_steps).together(chosen):
        pass
    return 0


def main() -> int:
    given = flags.FLAGS
    if given.cell not in ("rnn", "gru", "lstm"):
        raise ValueError(f"expected --cell=rnn, gru or lstm, got {given.cell!r}")
    if min(given.hidden_size, given.batch_size, given.num_steps, given.process_steps, given.rounds) < 1:
        raise ValueError("expected sizes, steps and rounds of at least 1")
    if not 0 < given.seconds < 1e3 or given.processes < 0:
        raise ValueError("expected seconds of a turn above 0 and processes of at least 0")
    shape = given.cell, given.hidden_size, given.batch_size, given.num_steps
    if given.train:
        return train_here(given.train, shape)
    counts = [4] if given.quick else numbers(given.members, "members")
    rounds, seconds = (1, 0.3) if given.quick else (given.rounds, given.seconds)
    rows = [compare(count, shape, rounds, seconds) for count in counts]
    ratios = {f"cost_{row['members']}": row["cost"] for row in rows}
    found: dict[str, Any] = {"hardware": hardware(), "versions": versions("jax", "jaxlib"), "ratios": ratios}
    count = min(given.processes, 2) if given.quick else given.processes
    if count:
        found["processes"] = compare_processes(count)
        ratios[f"processes_{count}"] = found["processes"]["share"]
    publish(found | {"rows": rows}, given.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

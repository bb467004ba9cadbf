"""What there is to know of lmseq on one accelerator, in less than ten minutes.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.accelerator --output=benchmarks/results/accelerator.json

First whether layers are right there: cuDNN's LSTM, and the loops in tf32, against the scan in float32. Then
`benchmarks.recurrence` beside PyTorch's cuDNN, where PyTorch finds a GPU, `ensembles` of 64 seeds, `sampling`
and `feeding`, each as a command of its own with few turns. What is left out is said, and `left_out` has it.
Without an accelerator, --quick tries all of it on the CPU. The last line is a JSON object with `card`, its
name, `exactness` (largest differences), and of each benchmark its `ratios` and the rest.
"""

import importlib.util
import json
import sys
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import apart, hardware, publish, run_process, timed, versions
from experiments.frame.command import main_with_flags
from experiments.frame.console import say
from experiments.frame.start import prepare_jax

flags.DEFINE_bool("quick", False, "small shapes and short turns, on a CPU too: to see that all works")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["quick", "output"]

# Of what is 1 or so. A factor in tf32 is rounded to 11 bits, and errors add up over the steps.
TOLERANCE = {"float32": 1e-4, "tf32": 3e-2}
BENCHMARKS = {
    "recurrence": ["--rounds=3", "--seconds=0.5", "--noflax", "--noscan"],
    "ensembles": ["--members=64", "--processes=0", "--rounds=3", "--seconds=1"],
    "sampling": ["--rounds=3", "--seconds=1"],
    "feeding": ["--rounds=3", "--seconds=1"],
}
QUICK = {
    "recurrence": ["--quick", "--works=rnn_char"],
    "ensembles": ["--quick", "--hidden_size=8", "--num_steps=4", "--processes=0"],
    "sampling": ["--quick", "--streams=2", "--num_tokens=8", "--hidden_size=16"],
    "feeding": ["--quick", "--models=mlp"],
}
WITH_TORCH = ("recurrence", "sampling")


def device() -> tuple[str, str]:
    """The platform that JAX runs on, and the name of its first device."""
    prepare_jax()
    import jax

    return jax.default_backend(), jax.devices()[0].device_kind


def torch_has_gpu() -> bool:
    """Whether PyTorch is there and finds a GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def exactness(hidden_size: int, batch_size: int, num_steps: int) -> dict[str, float]:
    """Largest difference of an LSTM's log-probabilities and gradients from the scan's in float32, a way each.

    A way that is not there is left out. Gradients are compared as shares of their largest entry.
    """
    prepare_jax()
    import jax

    from lmseq.config.language_model import ModelConfig
    from lmseq.models.build import build_model
    from lmseq.recurrence import cudnn

    tokens = jax.random.randint(jax.random.key(1), (batch_size, num_steps + 1), 0, 65)
    params = build_model(ModelConfig("lstm", hidden_size), 65).init(jax.random.key(0))

    def found(backend: str, precision: str) -> list[np.ndarray]:
        model = build_model(ModelConfig("lstm", hidden_size, backend=backend, precision=precision), 65)

        def loss(params: Any) -> Any:
            carry = model.init_carry(params, batch_size)
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            return -model.token_log_probs(params, carry, inputs, targets, training=True)[1].mean()

        value, slopes = jax.jit(jax.value_and_grad(loss))(params)
        return [np.asarray(value), *(np.asarray(leaf) for leaf in jax.tree.leaves(slopes))]

    expected = found("scan", "float32")
    ways = [("scan", "tf32")] + [("cudnn", "float32"), ("cudnn", "tf32")] * cudnn.is_there()
    return {
        f"{backend}_{precision}": max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in zip(found(backend, precision), expected, strict=True)
        )
        for backend, precision in ways
    }


def check_exactness(differences: dict[str, float]) -> None:
    """Raise ArithmeticError for a way to run a layer that is not what the scan is."""
    for way, difference in differences.items():
        most = TOLERANCE[way.rpartition("_")[2]]
        say(f"{way:<14} differs by {difference:.1e} from the scan in float32")
        if not difference <= most:
            raise ArithmeticError(f"expected {way} within {most} of the scan in float32, got {difference}")


def benchmark(name: str, more: list[str]) -> dict[str, Any]:
    """What a benchmark finds in a process of its own, and its seconds."""
    say(f"benchmarks.{name} {' '.join(more)}")
    process = run_process([sys.executable, "-m", f"benchmarks.{name}", *more])
    *said, last = process.output.splitlines()
    for line in said:
        say("    " + line)
    found = {key: value for key, value in json.loads(last).items() if key not in ("hardware", "versions")}
    return found | {"seconds": process.seconds}


def measure(quick: bool, more: list[str]) -> dict[str, Any]:
    """All of it; ValueError where there is no accelerator, unless it is to be quick.

    more: flags for every benchmark.
    """
    platform, card = apart(device)
    if platform == "cpu" and not quick:
        raise ValueError("expected a GPU or TPU, JAX finds only a CPU: install lmseq[gpu], or give --quick")
    say(f"on {card}")
    differences = apart(exactness, *((8, 2, 4) if quick else (256, 32, 64)))
    check_exactness(differences)
    left_out = []
    if not any(way.startswith("cudnn") for way in differences):
        left_out.append("cuDNN's LSTM: it is not there")
    with_torch = apart(torch_has_gpu)
    if not with_torch:
        left_out.append("PyTorch: it is not installed, or finds no GPU (benchmarks/requirements.txt)")
    for what in left_out:
        say(f"left out: {what}")
    without = [] if with_torch else ["--notorch"]
    rows = {
        name: benchmark(name, [*given, *(without if name in WITH_TORCH else []), *more])
        for name, given in (QUICK if quick else BENCHMARKS).items()
    }
    return {"card": card, "platform": platform, "left_out": left_out, "exactness": differences, **rows}


def main() -> int:
    more = [] if flags.FLAGS.compilation_cache else ["--nocompilation_cache"]
    seconds, found = timed(lambda: measure(flags.FLAGS.quick, more))
    about = {"hardware": hardware(), "versions": versions("jax", "jaxlib", "torch"), "seconds": seconds}
    publish(about | found, flags.FLAGS.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

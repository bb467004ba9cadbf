"""Every benchmark runs to its last line, or says which peer it lacks."""

import importlib
import json
import sys

import numpy as np
import pytest
from absl import flags

from benchmarks import backtest_sides, measure

ALONE = {
    "accelerator": ([], lambda found: found["card"] == "cpu" and found["feeding"]["ratios"]["mlp"] > 0),
    "feeding": (["--models=mlp"], lambda found: found["ratios"]["mlp"] > 0),
    "memory": ([], lambda found: found["ratios"]["softmax"] > 1.5),
    "ensembles": (
        ["--hidden_size=8", "--num_steps=4", "--processes=0"],
        lambda found: 0 < found["ratios"]["cost_4"] < 5,
    ),
    "startup": (
        [],
        lambda found: 0 < found["seconds"]["help"] < 30 and found["seconds"]["first"] > 0,
    ),
}
WITH_PEERS = {
    "recurrence": (["--works=rnn_char"], "rnn_char"),
    "contexts": (["--works=transformer_sample_1"], "transformer_sample_1"),
    "sampling": (["--works=cut", "--streams=2", "--num_tokens=8"], "cut_2"),
    "backtest": (["--points=200", "--horizon=4", "--rounds=1", "--neural_points=1"], "linear_200_process"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ALONE))
def test_a_benchmark_without_peers(processes, name, tmp_path):
    flags, holds = ALONE[name]
    output = tmp_path / "found.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", f"--output={output}", *flags]
    done = processes.execute(command)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == json.loads(output.read_text())
    assert found["hardware"] and found["versions"]["jax"] and holds(found)


@pytest.mark.parametrize("name", list(WITH_PEERS))
def test_a_benchmark_says_what_it_lacks(processes, name):
    """Or, where its peer is installed, compares something small with it."""
    flags, ratio = WITH_PEERS[name]
    quick = [] if name == "backtest" else ["--quick"]
    done = processes.execute([sys.executable, "-m", f"benchmarks.{name}", *quick, *flags])
    if done.returncode == 2:
        assert "pip install -r benchmarks/requirements.txt" in done.stderr.splitlines()[-1]
    else:
        assert json.loads(done.stdout.splitlines()[-1])["ratios"][ratio] > 0


# The accelerator's


@pytest.fixture
def accelerator(monkeypatch):
    """`benchmarks.accelerator` in this process, and the commands that it would start."""
    known = flags.FLAGS
    for name in {"quick", "output"} & set(known):  # another benchmark's, in the process of these tests
        delattr(known, name)
    module = importlib.import_module("benchmarks.accelerator")
    commands = []

    def run_process(command):
        commands.append(command[2:])
        last = json.dumps({"hardware": "here", "versions": {}, "ratios": {command[2]: 2.0}})
        return measure.Process(1.5, 1.0, 1 << 20, f"what it says\n{last}\n")

    monkeypatch.setattr(module, "apart", lambda work, *args: work(*args))
    monkeypatch.setattr(module, "prepare_jax", lambda: None)
    monkeypatch.setattr(module, "run_process", run_process)
    monkeypatch.setattr(module, "torch_has_gpu", lambda: False)
    return module, commands


def test_all_that_is_measured_on_an_accelerator(accelerator, capsys):
    module, commands = accelerator
    found = module.measure(True, ["--nocompilation_cache"])
    assert found["card"] == found["platform"] == "cpu" and found["exactness"] == {"scan_tf32": 0.0}
    assert [command[0] for command in commands] == [f"benchmarks.{name}" for name in module.BENCHMARKS]
    assert all("--quick" in command and command[-1] == "--nocompilation_cache" for command in commands)
    without = {command[0] for command in commands if "--notorch" in command}
    assert without == {"benchmarks.recurrence", "benchmarks.sampling"}
    assert found["feeding"] == {"ratios": {"benchmarks.feeding": 2.0}, "seconds": 1.5}
    said = capsys.readouterr().err
    assert len(found["left_out"]) == 2 and all(f"left out: {what}" in said for what in found["left_out"])


def test_an_accelerator_is_needed_and_must_be_exact(accelerator):
    module, commands = accelerator
    with pytest.raises(ValueError, match="JAX finds only a CPU: install"):
        module.measure(False, [])
    module.check_exactness({"cudnn_float32": 1e-5, "cudnn_tf32": 1e-2})
    for difference in (1e-3, float("nan")):
        with pytest.raises(ArithmeticError, match="expected cudnn_float32 within"):
            module.check_exactness({"cudnn_float32": difference})
    assert not commands


# What benchmarks measure with


def test_the_memory_of_a_process_is_its_own():
    """Not that of the process that starts it, which has more."""
    held = np.ones(1 << 24)
    small = measure.run_process([sys.executable, "-S", "-c", "print('done')"])
    large = measure.run_process([sys.executable, "-S", "-c", "held = b'x' * (1 << 26)"])
    assert small.output == "done\n" and small.peak_bytes < held.nbytes / 2
    assert 1 << 26 < large.peak_bytes < held.nbytes


def test_a_process_that_fails_or_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="failed: exit status 1, it is so"):
        measure.run_process([sys.executable, "-S", "-c", "import sys; sys.exit('it is so')"])
    with pytest.raises(ValueError, match="no_such_program failed"):
        measure.run_process(["no_such_program"])
    with pytest.raises(ValueError, match="failed"):
        measure.run_process([sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)"])
    (tmp_path / "in").write_text("given")
    echo = [sys.executable, "-S", "-c", "print(input())"]
    assert measure.run_process(echo, tmp_path / "in").output == "given\n"


def test_what_a_process_apart_finds_and_raises():
    assert measure.apart(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        measure.apart(divmod, 7, 0)


# The backtest's


def test_our_side_of_the_backtest_fits_and_forecasts_from_every_origin(tmp_path):
    """Of a series that a linear recurrence makes, every forecast is exact."""
    values = np.cos(0.3 * np.arange(100))[:, None]
    np.save(tmp_path / "values.npy", values)
    names = [str(tmp_path / name) for name in ("values.npy", "points.npy")]
    backtest_sides.main(["lmseq", *names, "60", "10"])
    points = np.load(names[1])
    ahead = np.lib.stride_tricks.sliding_window_view(values[60:, 0], 10)
    np.testing.assert_allclose(points, ahead, atol=1e-5)
    assert points.shape == (31, 10)

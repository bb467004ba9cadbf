"""Every benchmark runs to its last line, or says which peer it lacks."""

import json
import sys

import numpy as np
import pytest

from benchmarks import backtest_sides

ALONE = {
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
    "sampling": (["--streams=2", "--num_tokens=8"], "streams_2"),
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

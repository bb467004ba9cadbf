"""The claim about windows: errors by hand, states told from the last value, verdicts of made-up figures."""

import json

import jax
import numpy as np
import pytest

from experiments.claims import real_series, windows_suffice
from experiments.claims.real_series import FromLast, NetSettings
from experiments.claims.windows_suffice import Found, WindowsConfig
from lmseq.config.series import SeriesModelConfig
from lmseq.contract import scan_carries, scan_unroll
from lmseq.models.baselines import Persistence
from lmseq.models.build import build_series_model
from tests.pictures import is_drawn_on

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """100 values that rise by 1 a step, and every second step by a little more."""
    path = tmp_path_factory.mktemp("ramp") / "ramp.csv"
    values = np.arange(100) + 0.1 * (np.arange(100) % 2)
    path.write_text("value\n" + "\n".join(map(str, values)) + "\n", encoding="utf-8")
    return path


def test_parts_and_horizon_of_a_series(ramp):
    task = real_series.load_task(str(ramp))
    assert task.panel.only.split == (60, 80) and task.train_points == 60
    assert task.horizon == 8, "no season: eight steps"


def test_errors_of_a_ramp_by_hand(ramp):
    task = real_series.load_task(str(ramp))
    ahead = np.arange(1, 9)
    values = task.panel.only.series.values[:, 0]
    errors = [(values[t + ahead - 1] - values[t - 1]) ** 2 for t in range(80, 93)]
    expected = np.mean(errors) / values[:60].var()
    assert real_series.error(task, Persistence(1), {}, "test") == pytest.approx(expected, rel=1e-4)


def test_a_map_of_two_values_knows_the_ramp(ramp):
    task = real_series.load_task(str(ramp))
    assert real_series.map_errors(task, 2)["test"] < 1e-6 < 1e-2 < real_series.naive_error(task)


def test_predictions_are_told_from_the_last_value():
    inner = build_series_model(SeriesModelConfig(model="gru", hidden_size=3, num_layers=1), 2, num_direct=4)
    model = FromLast(inner, 2)
    params = model.init(jax.random.key(0))
    xs = RNG.normal(size=(3, 5, 2)).astype(np.float32)
    start = model.init_carry(params, 3)
    last, _ = scan_unroll(model, params, start, xs)
    own, _ = scan_unroll(inner, params, inner.init_carry(params, 3), xs)
    raised = model.readout_direct(params, last).mean - inner.readout_direct(params, own).mean
    np.testing.assert_allclose(raised, np.broadcast_to(xs[:, -1:], raised.shape), rtol=1e-5, atol=1e-6)
    first = model.readout(params, last).mean - model.readout_direct(params, last).mean[:, 0]
    np.testing.assert_allclose(first, 0.0, atol=1e-6)
    fast, slow = model.carries(params, start, xs), scan_carries(model, params, start, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), fast, slow)


def test_a_net_reads_a_quarter_of_a_short_series(ramp):
    task = real_series.load_task(str(ramp))
    config = real_series.net_config(task, NetSettings("gru", 2, 336, 10))
    assert (config.model.tau, config.objective.num_ahead, config.model.hidden_size) == (15, 8, 2)
    assert config.model.tau + config.data.num_steps + 8 < task.train_points


# Verdicts


def found(net: float, spread: float = 0.01) -> Found:
    rows = [
        {"tau": tau, "valid": valid, "test": test} for tau, valid, test in ((1, 3, 2), (2, 1, 1), (3, 2, 0.5))
    ]
    return Found("a/b.csv", 4, 2.0, rows, [net * (1 - spread), net, net * (1 + spread)])


@pytest.mark.parametrize(
    "net, spread, verdict, buys",
    [(1.2, 0.01, "holds", []), (0.8, 0.01, "fails", ["b"]), (1.0, 0.1, "undecided", [])],
)
def test_a_state_that_is_better_is_noticed(tmp_path, net, spread, verdict, buys):
    """Beside the map that validation chose, not the one that is best on the test part."""
    summary = windows_suffice.judge(WindowsConfig(), [found(net, spread)], tmp_path)
    assert (summary["verdict"], summary["state_buys"]) == (verdict, buys)
    assert (summary["b_window"], summary["b_map_mse"]) == (2, 1)
    is_drawn_on(tmp_path / "windows.png")


def test_the_size_of_a_net_is_chosen_on_the_validation_part():
    of_map = {"series": "s", "model": "map", "horizon": 2, "naive": 1.0, "rows": []}
    nets = [
        {"series": "s", "model": "gru", "hidden_size": size, "valid": valid, "test": test}
        for size, valid, test in ((2, [2.0, 2.0], [0.1, 0.1]), (4, [1.0, 2.0], [0.9, 0.8]))
    ]
    [chosen] = windows_suffice.found_by_series([of_map, *nets])
    assert chosen.net == [0.9, 0.8]


def test_a_run_from_end_to_end(tmp_path, scripts, ramp):
    sizes = "--windows=1,2,40 --hidden_sizes=2 --num_read=4 --num_train_steps=2 --num_seeds=2".split()
    done = scripts.run(
        "claims", "--name=windows_suffice", f"--series={ramp}", f"--workdir={tmp_path / 'run'}", *sizes
    )
    assert done.returncode in (0, 1), done.stderr
    summary = json.loads(done.stdout)
    assert summary["ramp_window"] == 2 and summary["verdict"] == "holds"
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["tau"] for row in records[0]["rows"]] == [1, 2], "40 leaves too little to fit to"

"""The claim about windows: errors by hand, what validation chooses, verdicts of made-up figures."""

import json
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims import real_series, windows_suffice
from experiments.claims.real_series import NetSettings
from experiments.claims.windows_suffice import Found, WindowsConfig
from lmseq.models.baselines import Persistence
from lmseq.training.job import Job, check_job
from tests.pictures import is_drawn_on


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
    assert task.horizon == 2, "every second step"


def test_errors_of_a_ramp_by_hand(ramp):
    """Of all origins from which two values of the test part follow; the naive one repeats the season."""
    task = real_series.load_task(str(ramp))
    values = task.panel.only.series.values[:, 0]
    errors = [(values[t + k] - values[t - 1]) ** 2 for t in range(80, 99) for k in (0, 1)]
    found = real_series.error(task, Persistence(1), {}, "test")
    assert found == pytest.approx(np.mean(errors) / values[:60].var(), rel=1e-4)
    assert real_series.naive_error(task) == pytest.approx(4.0 / values[:60].var(), rel=1e-4)


def test_a_map_of_two_values_knows_the_ramp(ramp):
    task = real_series.load_task(str(ramp))
    assert real_series.map_errors(task, 2)["test"] < 1e-6 < 1e-2 < real_series.naive_error(task)


def test_a_net_reads_a_quarter_of_a_short_series(ramp):
    task = real_series.load_task(str(ramp))
    config = real_series.net_config(task, NetSettings("gru", 2, 336, 10))
    assert (config.model.tau, config.objective.num_ahead, config.model.hidden_size) == (15, 2, 2)
    assert config.model.tau + config.data.num_steps + 2 < task.train_points


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


def test_the_best_parameters_of_a_training_are_kept(ramp):
    task = real_series.load_task(str(ramp))
    losses = iter([3.0, 1.0, 2.0])
    best = real_series.Best(task, Persistence(1))
    with mock.patch.object(real_series, "error", lambda *_: next(losses)):
        records = [best({"weight": jnp.full(1, step)}, step) for step in range(3)]
    assert (best.loss, best.params["weight"].item()) == (1.0, 1)
    assert [record["valid_loss"] for record in records] == [3.0, 1.0, 2.0]


def test_a_net_is_trained_from_each_seed_and_judged_at_its_best(ramp):
    """The job can be done; training and errors are made up, as compiling them takes long."""
    task = real_series.load_task(str(ramp))

    def fit(model, stream, train, *, batches, objective, evaluate):
        check_job(Job(model, stream, train, batches, objective))
        for step, weight in enumerate((3.0, train.seed, 2.0 + train.seed)):
            evaluate(jnp.full(1, weight), step)

    def error(_, model, params, part):
        return float(params[0]) + (10.0 if part == "test" else 0.0)

    with mock.patch.multiple(real_series, fit=fit, error=error):
        found = real_series.net_errors(task, NetSettings("gru", 2, 4, 2), [0, 1])
    assert found == {"valid": [0.0, 1.0], "test": [10.0, 11.0]}


def test_a_measurement_of_all_parts(tmp_path, ramp):
    """Nets are made up; the window of 40 is left out, as it would leave too little to fit to."""
    config = WindowsConfig(series=str(ramp), windows="1,2,40", num_seeds=2)
    nets = {"valid": [1.0, 1.0], "test": [1.0, 1.1]}
    with mock.patch.object(real_series, "net_errors", lambda *_: nets):
        summary = windows_suffice.measure(config, tmp_path)
    assert summary["ramp_window"] == 2 and summary["verdict"] == "holds"
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["tau"] for row in records[0]["rows"]] == [1, 2]
    assert [record.get("hidden_size") for record in records] == [None, 16, 64]

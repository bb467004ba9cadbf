"""The tasks and rows of `benchmarks.forecasting`: what is forecast from where, and how it is judged."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import forecast_peers, forecast_tasks, forecasting
from benchmarks.forecast_tasks import Task
from benchmarks.measure import run_process

DATA = Path(os.environ.get("LMSEQ_DATA_DIR", "/none")) / "m4"
TWO = Task(
    name="two",
    horizon=2,
    period=3,
    step=1,
    starts=(6, 7),
    units=(6, 5),
    values=(np.arange(1.0, 10.0), np.array([3.0, 1, 2, 3, 1, 2, 3, 1, 2])),
    places=(0, 1),
)


def test_origins_have_the_whole_horizon_after_them():
    assert list(TWO.origins(0)) == [6, 7] and list(TWO.origins(1)) == [7]
    assert list(TWO._replace(step=2).origins(0)) == [6]
    assert TWO.num_origins == 3


@given(length=st.integers(1, 12))
def test_windows_end_at_the_origins(length):
    places, seen = TWO.windows(length)
    assert places.tolist() == [0, 0, 1]
    for place, origin, window in zip(places, (6, 7, 7), seen, strict=True):
        np.testing.assert_array_equal(window, TWO.values[place][:origin][-length:])
    parts = TWO.split(np.arange(6).reshape(3, 2))
    assert [part.tolist() for part in parts] == [[[0, 1], [2, 3]], [[4, 5]]]


def test_figures_are_means_over_series_of_means_over_origins():
    """The second series is forecast exactly; the first, that rises by 1, is 1 too low everywhere."""
    points = [np.array([[6.0, 7], [7, 8]]), np.array([[1.0, 2]])]
    found = forecast_tasks.score(TWO, points)
    targets = np.array([[7.0, 8], [8, 9]])
    assert found["smape"] == pytest.approx(np.mean(200 / (2 * targets - 1)) / 2)
    # The seasonal steps of the second series are all 0: it has no scaled error.
    assert found["mase"] == pytest.approx(1 / 3)
    deviation = np.arange(1, 7).std()
    assert found["mae"] == pytest.approx(1 / deviation / 2)
    assert found["mse"] == pytest.approx(1 / deviation**2 / 2)


@pytest.mark.parametrize("points", [np.zeros((2, 3)), np.zeros((1, 2)), np.full((2, 2), np.nan)])
def test_forecasts_that_are_none_are_refused(points):
    with pytest.raises(ValueError, match="expected 2 times 2 numbers for series 0"):
        forecast_tasks.score(TWO, [points, np.zeros((1, 2))])


def test_tasks_and_forecasts_come_back_from_files(tmp_path):
    forecast_tasks.write_task(TWO, tmp_path / "task.npz")
    found = forecast_tasks.read_task(tmp_path / "task.npz")
    assert found._replace(values=()) == TWO._replace(values=())
    for ours, theirs in zip(TWO.values, found.values, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    points = [np.ones((2, 2)), np.zeros((1, 2))]
    forecast_tasks.write_points(points, tmp_path / "points.npz")
    for ours, theirs in zip(points, forecast_tasks.read_points(tmp_path / "points.npz"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_data_that_are_not_there_are_named(tmp_path):
    for make in (forecast_tasks.m4_hourly, forecast_tasks.etth1):
        with pytest.raises(
            ValueError, match=r"\.csv is not in .*: set LMSEQ_DATA_DIR to a folder that has it"
        ):
            make(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="M4 is not there")
def test_of_m4_the_seasonal_naive_has_its_published_figures():
    task = forecast_tasks.m4_hourly(DATA.parent)
    points = [
        np.tile(values[start - 24 : start], 2)[None]
        for values, start in zip(task.values, task.starts, strict=True)
    ]
    found = forecast_tasks.score(task, points)
    assert (found["smape"], found["mase"]) == pytest.approx((13.912, 1.193), abs=5e-4)


def test_a_sample_is_spread_evenly():
    assert forecast_tasks.sample(414, 6).tolist() == [0, 69, 138, 207, 276, 345]
    assert forecast_tasks.sample(3, 3).tolist() == [0, 1, 2]


def test_a_window_leaves_windows_to_fit():
    long = TWO._replace(starts=(1000, 900))
    assert forecast_peers.window_of(long) == 14 * 3
    assert forecast_peers.window_of(TWO._replace(starts=(6, 6))) == 1
    assert forecast_peers.window_of(TWO._replace(starts=(92,), period=50)) == 18


def test_our_map_forecasts_what_is_periodic_exactly():
    values = 5 + np.sin(2 * np.pi * np.arange(120) / 12)
    task = Task("sine", 4, 12, 1, (96,), (96,), (values,), (0,))
    (points,) = forecast_peers.linear_map(task)
    ahead = np.lib.stride_tricks.sliding_window_view(values[96:], 4)
    np.testing.assert_allclose(points, ahead, atol=1e-3)


def test_figures_of_a_run_are_those_of_the_chosen_series(tmp_path):
    names = ",".join(f"{model}_{name}" for model in ("mlp", "naive") for name in forecasting.FIGURES)
    table = tmp_path / "series.csv"
    table.write_text(f"series,{names}\nA,1,2,3,4,9,9,9,9\nB,5,,7,8,9,9,9,9\nC,3,4,5,6,9,9,9,9\n")
    assert forecasting.figures_of_run(table, (0, 2)) == {"smape": 2, "mase": 3, "mse": 4, "mae": 5}
    assert forecasting.figures_of_run(table, (0, 1))["mase"] == 2  # what is undefined does not count


def _row(name, mase, seconds):
    return {"task": "nile", "name": name, "mase": mase, "seconds": seconds}


def test_a_verdict_names_who_is_better_and_faster_than_our_best():
    rows = [
        _row("lmseq, a", 1.0, 5.0),
        _row("lmseq, b", 2.0, 1.0),
        _row("quick", 3.0, 0.5),
        _row("good", 0.5, 9.0),
        _row("both", 0.9, 4.0),
        {"task": "nile", "name": "late", "failed": "more than 300 s"},
    ]
    found = forecasting.verdict(rows, "mase")
    assert (found["best"], found["fastest"], found["ours"]) == ("good", "quick", "lmseq, a")
    assert found["better_and_faster"] == ["both"]
    assert forecasting.verdict(rows[-1:], "mase") == {"task": "nile", "figure": "mase"}


def test_a_row_has_the_median_of_its_turns_or_the_reason_of_its_failure():
    turns = [{"seconds": seconds, "cpu_seconds": 1.0, "mase": 1.0} for seconds in (3.0, 1.0, 2.0)]
    found = forecasting.row_of(TWO, "a", turns)
    assert (found["seconds"], found["turns"], found["num_origins"]) == (2.0, 3, 3)
    found = forecasting.row_of(TWO, "a", [turns[0], {"failed": "more than 9 s"}])
    assert found["failed"] == "more than 9 s" and "seconds" not in found


def test_who_takes_too_long_is_ended_with_all_that_it_started():
    """The child holds the pipe of the output: were it left alive, its 30 seconds would be waited for."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(30)'])"
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"took more than 0\.3 s"):
        run_process([sys.executable, "-c", child], limit=0.3)
    assert time.monotonic() - start < 10
    assert run_process([sys.executable, "-c", "print(1)"], limit=60).output == "1\n"


def test_rows_of_other_tasks_stay_in_a_record():
    old = {"rows": [_row("a", 1, 1), {"task": "co2"}], "verdicts": [{"task": "co2"}], "hardware": "here"}
    found = forecasting.joined(old, [_row("lmseq", 2, 2)])
    assert found["rows"] == [{"task": "co2"}, _row("lmseq", 2, 2)] and found["hardware"] == "here"
    assert [each["task"] for each in found["verdicts"]] == ["co2", "nile"]
    assert forecasting.joined({}, found["rows"][1:])["rows"] == [_row("lmseq", 2, 2)]


def test_slow_ones_of_long_series_forecast_samples(monkeypatch):
    monkeypatch.setattr(forecasting, "missing", lambda: [])
    assert [work.name for work in forecasting.rivals_of("m4_hourly_sample", False)] == ["AutoARIMA"]
    assert "AutoARIMA" not in [work.name for work in forecasting.rivals_of("m4_hourly", False)]
    assert "AutoARIMA" in [work.name for work in forecasting.rivals_of("nile", False)]
    assert "N-HiTS" not in [work.name for work in forecasting.rivals_of("nile", True)]
    monkeypatch.setattr(forecasting, "missing", lambda: ["darts", "statsforecast"])
    names = [work.name for work in forecasting.rivals_of("nile", True)]
    assert names == ["mlforecast, linear", "mlforecast, LightGBM"]


def test_ours_are_the_presets_of_the_data_or_the_linear_map():
    assert [work.name for work in forecasting.ours_of("nile")] == ["lmseq, linear map"]
    for task in ("m4_hourly", "m4_hourly_sample"):
        assert "m4_hourly_map" in [work.preset for work in forecasting.ours_of(task)]
    (sampled,) = forecasting.ours_of("etth1_96_sample")
    assert (sampled.preset, sampled.more) == ("etth1_96", ("--origin_step=96",))

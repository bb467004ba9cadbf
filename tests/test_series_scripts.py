"""The scripts on series, run as a user runs them: figures, claims, mistakes, and going on after a kill."""

import csv
import json
import math
import re
import signal
import time

import numpy as np
import pytest

from lmseq.config import knobs
from lmseq.config.series import SeriesConfig, num_direct
from lmseq.models.build import build_series_model
from lmseq.training.checkpoint import digest, load_params
from tests.pictures import is_drawn_on
from tests.scripts import figures, refusal

FAST = "--num_train_steps=200 --steps_per_dispatch=50 --eval_every=100 --checkpoint_every=50".split()
PLAIN = "--preset=one_step"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CSV files, good and bad, and one run that is finished."""
    path = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(0)
    t = np.arange(300)
    load = 1e6 + 40 * np.sin(2 * np.pi * t / 24) + rng.normal(size=300)
    wind = np.cos(2 * np.pi * t / 50) + 0.1 * rng.normal(size=300)

    def write(name, header, *columns):
        with (path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *zip(*columns, strict=True)])

    write("two.csv", ["t", "load", "wind"], t, load, wind)
    write("one.csv", ["t", "load"], t, load)
    write("constant.csv", ["t", "load"], t, np.ones(300))
    write("short.csv", ["load"], load[:12])
    holes = load.astype(str)
    holes[100] = ""
    write("holes.csv", ["load"], holes)
    holes[100] = "inf"
    write("infinite.csv", ["load"], holes)
    holes[100] = "many"
    write("words.csv", ["load"], holes)
    write("unsorted.csv", ["t", "load"], np.roll(t, 5), load)
    write("gap.csv", ["t", "load"], np.where(t > 150, t + 3, t), load)
    (path / "empty.csv").write_text("", encoding="utf-8")
    (path / "ragged.csv").write_text("name,a,b\nx,1,2\ny,3,\n", encoding="utf-8")
    (path / "months.csv").write_text("t,x\n01/02/2024,1\n02/02/2024,2\n03/02/2024,4\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, scripts, folder):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    done = scripts.run(
        "predict_series", f"--series={folder}/one.csv", "--columns=load", f"--workdir={workdir}", PLAIN, *FAST
    )
    assert done.returncode == 0, done.stderr
    return workdir, json.loads(done.stdout), done


def test_a_run_leaves_what_was_promised(run):
    workdir, summary, done = run
    promised = "one_step_rmse free_running_rmse mean_rmse persistence_rmse params_digest wall_seconds".split()
    promised += [f"{name}_at_{k}" for name in ("rmse", "mae") for k in (1, 4, 16)]
    assert [name for name in promised if summary.get(name) is None] == []
    assert json.loads((workdir / "summary.json").read_text()) == summary
    found = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
    files = "config.json series.json metrics.jsonl intervals.json summary.json".split()
    files += ["forecast.png", "error_curve.png", "page.html"]
    assert found == {*files, "checkpoints", "tensorboard"}
    assert 1 < summary["rmse_at_1"] < summary["persistence_rmse"] < summary["mean_rmse"] < 60, (
        "units of the file"
    )
    assert "load beats the mean" not in done.stderr and "mlp beats the mean" in done.stderr


def test_a_finished_run_is_reprinted_and_another_config_refused(run, scripts, folder):
    workdir, summary, _ = run
    flags = [f"--series={folder}/one.csv", "--columns=load", f"--workdir={workdir}", PLAIN, *FAST]
    assert scripts.summary("predict_series", *flags) == summary
    done = scripts.run("predict_series", *flags, "--tau=5")
    assert done.returncode == 2 and "tau: 4 -> 5" in done.stderr


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, run, scripts, folder):
    _, summary, _ = run
    flags = [f"--series={folder}/one.csv", "--columns=load", f"--workdir={tmp_path / 'run'}", PLAIN, *FAST]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = scripts.start("predict_series", *flags)
        end = time.monotonic() + 60
        while (
            process.poll() is None
            and time.monotonic() < end
            and not (tmp_path / "run/checkpoints/50").exists()
        ):
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate()
    assert figures(scripts.summary("predict_series", *flags)) == figures(summary)


@pytest.mark.parametrize(
    "flags",
    [
        "--model=gru --head=normal --num_layers=1 --valid_fraction=0.1",
        "--model=minlstm --objective=unrolled --num_ahead=3",
        "--model=linear --fit=gradient --objective=scheduled_sampling",
        "--model=mlp --residual --activation=gelu --objective=direct --num_ahead=3 --head=normal",
        "--model=lstm --objective=input_noise",
        "--model=linear --objective=direct --num_ahead=5",
        "--model=seasonal --period=24",
        "--model=drift",
    ],
)
def test_every_model_forecasts_several_variables(tmp_path, scripts, folder, flags):
    fast = [] if any(f"--model={name}" in flags for name in ("seasonal", "drift")) else FAST
    if "linear" in flags and "gradient" not in flags:
        fast = []
    common = [PLAIN, "--series=" + str(folder / "two.csv"), "--time_column=t", "--max_horizon=20"]
    summary = scripts.summary(
        "predict_series", f"--workdir={tmp_path / 'run'}", *common, *flags.split(), *fast
    )
    assert math.isfinite(summary["rmse_at_16"]) and summary["one_step_rmse"] < 2 * summary["mean_rmse"]
    assert (summary["log_density"] is not None) == ("normal" in flags)


def test_an_autoregression_is_predicted_as_well_as_can_be(tmp_path, scripts):
    flags = "--series=ar --coefficients=0.9,-0.5 --num_points=100000 --model=linear --tau=2".split()
    summary = scripts.summary("predict_series", f"--workdir={tmp_path / 'run'}", *flags)
    for k in (1, 4, 16, 64):
        assert abs(summary[f"rmse_at_{k}"] / summary[f"oracle_rmse_at_{k}"] - 1) < 0.02


def test_chaos_grows_by_its_exponent(tmp_path, scripts):
    flags = ["--preset=chaos", "--seed=3"]
    summary = scripts.summary("predict_series", f"--workdir={tmp_path / 'run'}", *flags)
    assert abs(summary["error_growth_per_step"] / math.log(2) - 1) < 0.15
    assert (tmp_path / "run/error_growth.png").exists()


def test_a_net_on_a_series_of_a_file_by_default(tmp_path, scripts):
    """A noisy sine of a period that nobody named: near its noise one step ahead and far ahead alike."""
    t = np.arange(1000)
    values = 9 * np.sin(2 * np.pi * t / 45) + np.random.default_rng(1).normal(size=t.size)
    (tmp_path / "sine.csv").write_text("\n".join(["load", *(f"{value:.6f}" for value in values)]))
    flags = [f"--series={tmp_path / 'sine.csv'}", f"--workdir={tmp_path / 'run'}", "--num_train_steps=200"]
    summary = scripts.summary("predict_series", *flags)
    assert summary["one_step_rmse"] < 1.2 and summary["rmse_at_64"] < 1.3 < summary["mean_rmse_at_64"] / 4
    best = load_params(tmp_path / "run", model_in(tmp_path / "run"), "best").params
    assert digest(best) == summary["params_digest"], "the best by validation is what forecasts"


def model_in(workdir):
    config = knobs.from_json((workdir / "config.json").read_text(), SeriesConfig)
    return build_series_model(config.model, 1, num_direct=num_direct(config))


def test_windows_forget_and_states_do_not(tmp_path, scripts):
    flags = "--lags=2,6 --taus=2,6 --num_seeds=3 --num_train_steps=300 --hidden_size=32".split()
    flags += ["--source_steps=200", "--num_tokens=60000", "--longest_window=6"]
    done = scripts.run("claims.window_or_state", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.returncode in (0, 1), done.stderr  # trained so briefly, the net may be far from the rate
    summary = json.loads(done.stdout)
    verdicts = {check["what"]: check["verdict"] for check in summary["checks"]}
    assert all(verdict == "holds" for what, verdict in verdicts.items() if what.startswith("error"))
    # The opposite lies outside the intervals: the blind window does not know, the state does not guess.
    assert summary["error_tau_2_lag_6_low"] > 0.6 > 0.4 > summary["error_gru_lag_6_high"]
    assert summary["error_tau_6_lag_6_high"] < 0.4
    # A hidden state passes below what one token can tell, a window of two does not pass below H_2.
    assert summary["source_loss_gru_high"] < summary["source_h_1"]
    assert summary["source_loss_tau_2_high"] >= summary["source_h_2"]
    assert (tmp_path / "run/hidden_source.png").exists()


def test_order_matters_inside_and_not_among_examples(tmp_path, scripts):
    workdir = tmp_path / "run"
    flags = "--num_tokens=60000 --num_points=2000 --num_seeds=3 --num_train_steps=300".split()
    process = scripts.start("claims.iid_or_sequence", f"--workdir={workdir}", *flags)
    end = time.monotonic() + 60
    records = workdir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < end:
        if records.exists() and len(records.read_bytes().splitlines()) >= 2:
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = records.read_text(encoding="utf-8").splitlines()[:2]
    summary = scripts.summary("claims.iid_or_sequence", f"--workdir={workdir}", *flags)
    after = records.read_text(encoding="utf-8").splitlines()
    assert after[:2] == before and len(after) == 18, "what was measured is not measured again"
    # Trained so briefly, batches of neighbours learn worse than permuted ones: the loss may fall a little.
    for domain in ("series", "text"):
        assert -0.4 < summary[f"{domain}_examples_permuted_share_lost_low"]
        assert summary[f"{domain}_examples_permuted_share_lost_high"] < 0.1
        assert summary[f"{domain}_time_scrambled_share_lost_low"] > 0.9


def test_the_table_of_objectives(tmp_path, scripts):
    flags = ["--series=mackey_glass", "--num_points=400", "--num_seeds=2", "--max_horizon=16", *FAST]
    summary = scripts.summary("compare_objectives", f"--workdir={tmp_path / 'run'}", *flags)
    assert summary["unrolled_rmse_at_16_low"] <= summary["unrolled_rmse_at_16"]
    least = summary["least_at_16"]
    others = ("teacher_forcing", "unrolled", "scheduled_sampling", "input_noise", "direct")
    assert summary[f"{least}_rmse_at_16"] == min(summary[f"{name}_rmse_at_16"] for name in others)
    is_drawn_on(tmp_path / "run/objectives.png")


def test_what_a_file_does_not_say_is_told(tmp_path, scripts):
    """Decimal commas, dates, words, odd names."""
    walk = np.random.default_rng(0).normal(size=60).cumsum()
    days = np.arange("2024-01-01", "2024-03-01", dtype="datetime64[D]")
    rows = [f"{day};Bern;{value:.4f}".replace(".", ",") for day, value in zip(days, walk, strict=True)]
    path = tmp_path / "$x_{日.CSV"
    path.write_text("\n".join(["Tag;Ort;$ä_{", *rows]), encoding="utf-8-sig")
    flags = [f"--series={path}", "--model=persistence", "--max_horizon=2", f"--workdir={tmp_path / 'run'}"]
    done = scripts.attempt("predict_series", *flags)
    assert done.returncode == 0, done.stderr
    expected = np.sqrt(np.mean(np.diff(walk.round(4))[35:] ** 2))
    assert json.loads(done.stdout)["one_step_rmse"] == pytest.approx(expected, rel=1e-5)
    is_drawn_on(tmp_path / "run/forecast.png")
    for note in ("times are in column 'Tag'", "left out, .*: 'Ort'", "decimal marks are commas"):
        assert re.search(note, done.stderr)


BAD = [
    ("predict_series", "--workdir={new} --series={folder}", "is a folder"),
    ("predict_series", "--workdir={new} --series={folder}/two.csv --columns=load,load", "twice"),
    (
        "predict_series",
        "--workdir={new} --series={folder}/two.csv --period=300",
        "period below the 150 points",
    ),
    ("predict_series", "", "--workdir"),
    ("predict_series", "--workdir={new} --series=sines", "noisy_sine"),
    ("predict_series", "--workdir={new} --series=laod --columns=a", "unknown series 'laod'"),
    ("predict_series", "--workdir={new} --series={folder}/none.csv", "none.csv"),
    ("predict_series", "--workdir={new} --series={folder}/empty.csv", "empty"),
    ("predict_series", "--workdir={new} --series={folder}/constant.csv --columns=load", "constant"),
    ("predict_series", "--workdir={new} --series={folder}/one.csv --columns=lod", "'t', 'load'"),
    ("predict_series", "--workdir={new} --series={folder}/two.csv --head=counts", "expected whole numbers"),
    ("predict_series", "--workdir={new} --model=linear --ensemble=2", "ensemble=2 does nothing here"),
    ("predict_series", "--workdir={new} --series={folder}/holes.csv", "row 102"),
    ("predict_series", "--workdir={new} --series={folder}/infinite.csv", "row 102"),
    ("predict_series", "--workdir={new} --series={folder}/words.csv", "'many'"),
    ("predict_series", "--workdir={new} --series={folder}/unsorted.csv --time_column=t", "row 7"),
    ("predict_series", "--workdir={new} --series={folder}/gap.csv --time_column=t", "row 153"),
    ("predict_series", "--workdir={new} --series={folder}/unsorted.csv --time_column=t", "or say --repair"),
    (
        "predict_series",
        "--workdir={new} --series={folder}/gap.csv --time_column=t --repair",
        "choose --missing",
    ),
    ("predict_series", "--workdir={new} --series={folder}/ragged.csv", "say --form=wide or --form=table"),
    ("predict_series", "--workdir={new} --series={folder}/ragged.csv --form=wide", "too short for a window"),
    ("predict_series", "--workdir={new} --series={folder}/two.csv --form=long", "say --id_column"),
    ("predict_series", "--workdir={new} --series={folder}/two.csv --calendar", "--calendar needs dates"),
    (
        "predict_series",
        "--workdir={new} --series={folder}/two.csv --columns=load --known_columns=wind --model=drift",
        "models that are fitted",
    ),
    ("predict_series", "--workdir={new} --series={folder}/two.csv --known_columns=rain", "no column 'rain'"),
    ("predict_series", "--workdir={new} --series={folder}/months.csv", "may be 2024-02-01 or 2024-01-02"),
    ("predict_series", "--workdir={new} --series={folder}/short.csv --tau=64", "points to train on"),
    ("predict_series", "--workdir={new} --tau=700", "points to train on"),
    ("predict_series", "--workdir={new} --tau=0", "tau of at least 1"),
    ("predict_series", "--workdir={new} --test_fraction=0", "test_fraction"),
    ("predict_series", "--workdir={new} --test_fraction=0.001", "2 to test on"),
    ("predict_series", "--workdir={new} --max_horizon=0", "max_horizon"),
    ("predict_series", "--workdir={new} --series=ar --coefficients=1.1", "stable"),
    ("predict_series", "--workdir={new} --series=ar --coefficients=a,b", "coefficients"),
    ("predict_series", "--workdir={new} --coefficients=0.5", "does nothing here"),
    (
        "predict_series",
        "--workdir={new} --model=mean --num_train_steps=20",
        "num_train_steps=20 does",
    ),
    ("predict_series", "--workdir={new} --model=seasonal --series=logistic", "--period"),
    ("predict_series", "--workdir={new} --model=mean --objective=unrolled", "objective"),
    ("predict_series", "--workdir={run} --series={folder}/two.csv --columns=wind", "series: "),
    ("claims.window_or_state", "--workdir={new} --lags=3,x", "--lags"),
    ("claims.window_or_state", "--workdir={new} --num_seeds=1", "num_seeds"),
    ("claims.iid_or_sequence", "--workdir={new} --num_tokens=10", "characters"),
    ("compare_objectives", "--workdir={new} --model=linear", "step by step"),
    ("compare_objectives", "--workdir={new} --model=mean --num_train_steps=20", "num_train_steps=20 does"),
]


@pytest.mark.parametrize("script, flags, says", BAD, ids=[f"{s} {f}" for s, f, _ in BAD])
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, scripts, folder, run, script, flags, says):
    new = tmp_path / "new"
    before = {path: path.read_bytes() for path in run[0].glob("*.json*")}
    done = scripts.attempt(script, *flags.format(new=new, folder=folder, run=run[0]).split())
    progress, last = refusal(done)
    assert says in last
    assert all(" points (train / valid / test)" in line for line in progress)
    assert not new.exists() and before == {path: path.read_bytes() for path in run[0].glob("*.json*")}


def test_values_that_were_missing_are_not_scored(tmp_path, scripts):
    """Every second value of white noise is missing: nothing can be forecast, and no policy makes it so."""
    noise = np.random.default_rng(0).normal(size=2000)
    rows = ["x", *(f"{value}" if t % 2 else "" for t, value in enumerate(noise))]
    path = tmp_path / "noise.csv"
    path.write_text("\n".join([rows[0], "0", *rows[2:]]), encoding="utf-8")
    flags = [f"--series={path}", "--model=linear", "--tau=2", f"--workdir={tmp_path / 'run'}"]
    summary = scripts.summary("predict_series", *flags, "--missing=previous")
    assert summary["one_step_rmse"] > 0.97 * summary["mean_rmse"]
    flags[-1] += "2"
    done = scripts.run("predict_series", *flags, "--missing=interpolate")
    assert done.returncode == 2 and "--missing=previous" in done.stderr.splitlines()[-1]

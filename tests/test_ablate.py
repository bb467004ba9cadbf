"""Ablations: cells against single runs, going on after a kill, failures, tables, and pictures of runs."""

import importlib.util
import json
import math
import re
import signal
import time

import pytest
from absl.flags import Error

from experiments import ablate, compile_for, forecast, predict_series, train_lm
from experiments.ablation import design, records, tables, together
from experiments.ablation.tables import Found
from experiments.frame import intervals
from experiments.frame.experiment import call_from_texts
from tests.pictures import is_drawn_on
from tests.scripts import ROOT, TIMINGS, refusal

SERIES = (
    "preset=one_step num_points=300 num_train_steps=60 steps_per_dispatch=20 hidden_size=8 batch_size=16 "
    "max_horizon=16"
)
TEXT = (
    "hidden_size=16 batch_size=4 num_steps=16 warmup_steps=10 steps_per_dispatch=20 num_train_steps=40 "
    "horizon_origins=8 horizon_samples=4"
)
TAUS = ["--experiment=predict_series", "--sweep=tau=2,100000,4", f"--fixed={SERIES}"]
TAUS += ["--seeds=2", "--first_seed=3"]
APART = "params_digest wall_seconds best_valid_loss best_step count_order count_loss".split()


def cells_of(workdir):
    return list(records.read_ledger(workdir).values())


def flags_of(text):
    return [f"--{part}" for part in text.split()]


def assert_same(found, expected):
    """Every figure of a cell is that of a run of its own, to rounding."""
    for name, value in found.items():
        if name in (*APART, *TIMINGS):
            continue
        if isinstance(value, float):
            assert value == pytest.approx(expected[name], rel=2e-3), name
        else:
            assert value == expected[name], name


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small text to learn."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat, and the dog sat on the log. " * 150, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def taus(tmp_path_factory, processes):
    """An ablation of predict_series, one of whose settings fails."""
    workdir = tmp_path_factory.mktemp("ablation") / "taus"
    done = processes.run("ablate", *TAUS, "--compare=tau=2", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, json.loads(done.stdout.splitlines()[-1]), done


@pytest.fixture(scope="module")
def separate(tmp_path_factory, scripts):
    """One of its cells as a process."""
    workdir = tmp_path_factory.mktemp("ablation") / "separate"
    flags = ["--experiment=predict_series", "--sweep=tau=4", f"--fixed={SERIES}", "--separate"]
    summary = scripts.summary("ablate", *flags, "--seeds=1", "--first_seed=4", f"--workdir={workdir}")
    return workdir, summary


def test_a_cell_is_the_single_run(taus, separate):
    workdir, summary, _ = taus
    assert summary["num_cells"] == 6 and summary["num_failed"] == 2 and summary["metric"] == "one_step_rmse"
    (cell,) = [each for each in cells_of(workdir) if each["setting"] == {"tau": "4"} and each["seed"] == 4]
    folder = separate[0] / "cells" / cell["cell"].replace("2-", "0-")
    single = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["seed"], config["tau"], config["num_points"]) == (4, 4, 300)
    assert set(single) == set(cell["figures"])
    assert_same(cell["figures"], single)
    both = [each["figures"]["one_step_rmse"] for each in cells_of(workdir) if each["setting"]["tau"] == "4"]
    assert summary["one_step_rmse__tau=4"] == pytest.approx(sum(both) / 2)


def test_a_cell_that_fails_is_a_row_that_says_why(taus):
    workdir, _, done = taus
    failed = [each for each in cells_of(workdir) if each["error"]]
    assert [each["setting"]["tau"] for each in failed] == ["100000", "100000"]
    assert all("65536" in each["error"] and not each["figures"] for each in failed)
    lines = (workdir / "table.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("tau,seed,") and len(lines) == 7
    assert "More than with tau=2" in done.stderr and "65536" in done.stderr
    assert len((workdir / "paired.csv").read_text(encoding="utf-8").splitlines()) == 3
    is_drawn_on(workdir / "ablation.png")


def test_a_finished_ablation_is_reprinted_and_another_refused(scripts, taus):
    workdir, summary, _ = taus
    assert scripts.summary("ablate", *TAUS, f"--workdir={workdir}") == summary
    other = scripts.attempt("ablate", *TAUS, "--sweep=tau=2,4", f"--workdir={workdir}")
    assert "another config" in refusal(other)[1]


def test_numbers_of_one_program_are_single_runs(tmp_path, scripts, text):
    """Learning rates of a language model, and one among them that diverges."""
    workdir, corpus = tmp_path / "rates", f"corpus={text} "
    done = scripts.run(
        "ablate",
        "--sweep=learning_rate=1e-3,1e30,1e-2",
        f"--fixed={corpus}{TEXT}",
        "--seeds=1",
        "--first_seed=1",
        f"--workdir={workdir}",
    )
    assert done.returncode == 0, done.stderr
    found = {each["setting"]["learning_rate"]: each for each in cells_of(workdir)}
    assert "not finite at step" in found["1e30"]["error"] and not (workdir / "cells").exists()
    flags = [*flags_of(corpus + TEXT), "--learning_rate=1e-2", "--seed=1", f"--workdir={tmp_path / 'run'}"]
    single = scripts.summary("train_lm", *flags)
    assert {"valid_loss", "test_loss", "loss_at_4", "unigram_loss"} <= set(found["1e-2"]["figures"])
    assert_same(found["1e-2"]["figures"], single)


@pytest.mark.parametrize(
    "objective, name", [("input_noise", "input_noise"), ("scheduled_sampling", "sampling_rate")]
)
def test_a_number_of_the_objective_is_a_member_s(tmp_path, scripts, objective, name):
    fixed, workdir = f"objective={objective} tau=2 {SERIES}", tmp_path / "sweep"
    flags = ["--experiment=predict_series", f"--sweep={name}=0.05,0.6", f"--fixed={fixed}", "--seeds=1"]
    done = scripts.run("ablate", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert not (workdir / "cells").exists()
    assert len({cell["figures"]["one_step_rmse"] for cell in cells_of(workdir)}) == 2
    cell = cells_of(workdir)[1]
    single = [*flags_of(fixed), f"--{name}=0.6", f"--seed={cell['seed']}", f"--workdir={tmp_path / 'one'}"]
    assert_same(cell["figures"], scripts.summary("predict_series", *single))


def test_what_is_done_is_not_done_again_after_a_kill(tmp_path, scripts, taus):
    whole, expected, _ = taus
    workdir, ledger = tmp_path / "killed", tmp_path / "killed" / records.LEDGER
    process = scripts.start("ablate", *TAUS, f"--workdir={workdir}")
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if ledger.exists() and b"\n" in ledger.read_bytes():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = ledger.read_text(encoding="utf-8").splitlines()
    assert 1 <= len(before) < 6
    with ledger.open("a", encoding="utf-8") as file:
        file.write('{"cell": "torn')
    summary = scripts.summary("ablate", *TAUS, f"--workdir={workdir}")
    after = ledger.read_text(encoding="utf-8").splitlines()
    assert len(after) == 6 and after[: len(before)] == before
    for name, value in expected.items():
        if "seconds" not in name:
            assert summary[name] == (pytest.approx(value, rel=2e-3) if type(value) is float else value), name
    both = [(folder / "table.csv").read_text(encoding="utf-8").splitlines() for folder in (workdir, whole)]
    assert [line.split(",")[:2] for line in both[0]] == [line.split(",")[:2] for line in both[1]]


def test_any_experiment_runs_as_processes(tmp_path, scripts, text):
    workdir = tmp_path / "counts"
    common = f"--fixed=corpus={text} discount_fallback=true"
    flags = ["--experiment=train_ngram", "--sweep=order=2,3", common, f"--workdir={workdir}"]
    assert "has no --seed" in refusal(scripts.attempt("ablate", *flags))[1]
    summary = scripts.summary("ablate", *flags, "--seeds=1")
    assert summary["num_failed"] == 0 and summary["valid_loss__order=3"] < summary["valid_loss__order=2"]
    assert (workdir / "cells/0-order=2-seed=0/summary.json").exists()


def test_a_dry_run_writes_nothing(tmp_path, scripts):
    flags = ["--experiment=predict_series", "--sweep=tau=1,2 learning_rate=1e-3,1e-2", "--dry_run"]
    flags.append("--fixed=preset=one_step")
    done = scripts.run("ablate", *flags, f"--workdir={tmp_path / 'new'}")
    assert done.returncode == 0 and not (tmp_path / "new").exists()
    assert "12 cells of predict_series: 2 programs, 0 processes" in done.stdout
    assert "4,353" in done.stdout and "GFLOP/s" in done.stdout


@pytest.mark.parametrize(
    "sweep, message",
    [
        ("tau", "got 'tau'"),
        ("tau=", "got 'tau='"),
        ("tau=1,,2", "empty value"),
        ("tau=1,2,1", "tau=1 stands twice"),
        ("learning_rate=0.001,1e-3", "stands twice"),
        ("tau=1 tau=2", "tau stands twice"),
        ("1tau=1", "got '1tau=1'"),
    ],
)
def test_malformed_sweeps_are_refused(sweep, message):
    with pytest.raises(ValueError, match=message):
        design.read_sweep(sweep)


BAD = [
    ("--sweep=tau=1", "--workdir"),
    ("--workdir={new}", "--sweep"),
    ("--workdir={new} --sweep=taus=1", "did you mean --tau?"),
    ("--workdir={new} --sweep=seed=1", "--first_seed"),
    ("--workdir={new} --sweep=tau=1 --fixed=tau=2", "both fixed and varied"),
    ("--workdir={new} --sweep=tau=1 --experiment=train_lms", "did you mean train_lm?"),
    ("--workdir={new} --sweep=tau=1 --experiment=score_text", "unknown experiment"),
    ("--workdir={new} --sweep=tau=1 --experiment=zip", "did you mean zipf?"),
    ("--workdir={new} --sweep=tau=1,2 --compare=tau=3", "matches 0"),
    ("--workdir={new} --sweep=tau=1 --seeds=0", "seeds of at least 1"),
    ("--workdir={new} --settings={new}.json", ".json"),
]


@pytest.mark.parametrize("flags, says", BAD)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, scripts, flags, says):
    new = tmp_path / "new"
    progress, last = refusal(scripts.attempt("ablate", *flags.format(new=new).split()))
    assert says in last and not progress and not new.exists()


def test_sweeps_and_files_of_settings_agree(tmp_path):
    path = tmp_path / "settings.json"
    listed = [{"tau": tau, "residual": flag} for tau in (1, 2) for flag in (True, False)]
    path.write_text(json.dumps(listed), encoding="utf-8")
    assert design.read_settings(path) == design.read_sweep("tau=1,2 residual=true,false")
    path.write_text(json.dumps([{"coefficients": "0.5,0.1"}]), encoding="utf-8")
    assert design.read_settings(path) == [{"coefficients": "0.5,0.1"}]
    for wrong in ([], {}, [1], [{}], [{"tau": None}], [{"tau": [1]}], [{"tau": 1}, {"tau": 1.0}]):
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(ValueError, match="settings"):
            design.read_settings(path)


def made_up():
    """tau = 2 loses 0.5 less than tau = 1 with every seed; seeds differ much more; one cell failed."""
    rows = []
    for tau, less in ((1, 0.0), (2, 0.5), (4, 0.25)):
        for seed in range(4):
            rows.append({"tau": tau, "seed": seed, "loss": 10.0 * seed - less, "name": "a", "error": None})
    rows[-1] = {"tau": 4, "seed": 3, "error": "it diverged"}
    return Found("train_ngram", ("tau",), rows)


def test_pairs_see_what_means_do_not():
    first, second = tables.pair(made_up(), {"tau": 1})
    assert first["tau"] == 2 and first["loss"] == first["loss_low"] == first["loss_high"] == -0.5
    assert second["loss"] == -0.25 and second["loss_pairs"] == 3
    summary = tables.summarise(made_up())
    assert summary[0]["loss_low"] < summary[1]["loss"] < summary[0]["loss_high"]
    assert (summary[2]["num_seeds"], summary[2]["num_failed"]) == (3, 1)
    assert "it diverged" in tables.markdown(made_up(), ["loss"])


def test_a_cell_without_a_figure_leaves_the_mean_of_its_setting_undefined():
    """Null stands for infinite too: a setting must not win by the runs that ran away."""
    rows = [
        {"tau": 1, "seed": 0, "loss": 0.5, "error": None},
        {"tau": 1, "seed": 1, "loss": None, "error": None},
    ]
    rows += [{"tau": 2, "seed": seed, "loss": 0.6, "error": None} for seed in (0, 1)]
    found = Found("train_ngram", ("tau",), rows)
    summary = tables.summary(found, ["loss"], "least")
    assert (summary["loss__tau=1"], summary["best_setting"]) == (None, "tau=2")
    assert math.isnan(tables.summarise(found)[0]["loss"]) and tables.summarise(found)[1]["loss"] == 0.6
    assert math.isnan(tables.pair(found, {"tau": 2})[0]["loss"])
    assert "0.5, 1 undefined" in tables.markdown(found, ["loss"])


def test_estimates_of_few_seeds_have_no_interval():
    assert tables.told_interval([2.0]) == "2" and math.isnan(intervals.estimate([]).mean)
    three = intervals.estimate([1.0, 2.0, 3.0])
    assert intervals.standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert three.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3))


def test_columns_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="did you mean loss"):
        tables.choose_metrics(made_up(), "los")
    assert tables.choose_metrics(made_up(), "") == ["loss"]


def test_runs_are_drawn(tmp_path, processes, scripts, taus):
    workdir, _, _ = taus
    out = tmp_path / "tau.png"
    done = processes.run("plot_runs", f"--runs={workdir}", "--x=tau", "--y=one_step_rmse", f"--out={out}")
    assert done.returncode == 0, done.stderr
    is_drawn_on(out)
    assert json.loads(done.stdout)["rows"] == 6
    done = scripts.attempt("plot_runs", f"--runs={workdir}", "--x=tau", "--y=one_step_rms", f"--out={out}")
    assert "one_step_rmse" in refusal(done)[1]
    done = scripts.attempt("plot_runs", f"--runs={tmp_path}", "--x=tau", "--y=one_step_rmse", f"--out={out}")
    assert "is no run and no ablation" in refusal(done)[1]


def test_learning_curves_of_separate_runs_are_drawn(tmp_path, scripts, separate):
    workdir, out = separate[0], tmp_path / "curves.png"
    cell = next(path for path in (workdir / "cells").iterdir() if path.is_dir())
    done = scripts.run("plot_runs", f"--runs={workdir},{cell}", "--curves=train_loss", f"--out={out}")
    assert done.returncode == 0, done.stderr
    is_drawn_on(out)
    assert json.loads(done.stdout) == {"picture": str(out), "rows": 2, "curves": 1}


def test_presets_give_way_to_flags():
    flags = {"preset": "chaos", "num_train_steps": "70", "tau": "2", "seed": "3"}
    config = call_from_texts(predict_series.EXPERIMENT, flags).config
    assert (config.data.series, config.train.num_train_steps, config.train.seed) == ("logistic", 70, 3)
    with pytest.raises(Error, match="chaotic"):
        call_from_texts(predict_series.EXPERIMENT, {"preset": "chaotic"})


def test_structure_is_all_but_seeds_and_numbers():
    def structure(seed, **flags):
        texts = {**flags, "seed": str(seed)}
        return together.structure(call_from_texts(train_lm.EXPERIMENT, texts).config)

    assert structure(0, learning_rate="1e-3") == structure(1, learning_rate="1e-2", clip_norm="5")
    assert structure(0, clip_norm="0") != structure(0, clip_norm="1")
    assert structure(0, dropout="0.1") == structure(0, dropout="0.2") != structure(0)
    assert structure(0, hidden_size="8") != structure(0, hidden_size="16")


def test_members_need_no_batch_that_the_devices_divide(text):
    """A batch of 5 on eight devices: each has members of its own, and none shares a batch with another."""
    texts = {**dict(part.split("=") for part in TEXT.split()), "corpus": str(text), "batch_size": "5"}
    config = call_from_texts(train_lm.EXPERIMENT, texts).config
    assert together.text_work(config, frozenset()).batches.batch_size == 5


def test_the_experiments_are_all_that_have_a_folder():
    """No list is kept by hand unchecked: every module with an experiment is there, under its own name."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "experiments").rglob("*.py")
        if re.search(r"^(EXPERIMENT|CLAIM) = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    found = []
    for module in modules:
        there = vars(importlib.import_module(module))
        experiment = there.get("EXPERIMENT") or there["CLAIM"]
        found.append(experiment)
        assert module == experiment.module or module.startswith(f"{experiment.module}."), module
        assert importlib.util.find_spec(experiment.module) is not None
    assert set(found) == {*design.EXPERIMENTS, ablate.EXPERIMENT, compile_for.EXPERIMENT, forecast.EXPERIMENT}

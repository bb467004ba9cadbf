"""An experiment as a value: what `main` makes of a made-up one, and how scripts answer before they work."""

import dataclasses
import errno
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from absl import flags

from experiments import ablate, compile_for, forecast
from experiments.ablation.design import EXPERIMENTS
from experiments.frame import start
from experiments.frame.command import StoppedError
from experiments.frame.experiment import (
    Call,
    Experiment,
    attempt_experiment,
    call_from_texts,
    flag_names,
)
from experiments.frame.workdir import locked
from lmseq.config.knobs import knob
from tests.scripts import COMMANDS, ROOT


@dataclass(frozen=True)
class ToyConfig:
    size: int = knob(3, "how large")
    kind: Literal["round", "square"] = knob("round", "which kind")
    share: float = knob(1.0, "which share")


@dataclass(frozen=True)
class ToyOptions:
    text: tuple[str, ...] = knob((), "what to say of it")
    again: bool = knob(False, "look at a finished run again")
    plan: bool = knob(False, "say what would be done, and do nothing")


def none() -> dict[str, Any]:
    """No settings."""
    return {}


def large() -> dict[str, Any]:
    """Large and square."""
    return {"size": 100, "kind": "square"}


def check(config: ToyConfig) -> ToyConfig:
    if config.size < 1:
        raise ValueError(f"expected a size of at least 1, got {config.size}")
    return config


def run(call: Call, workdir: Path, prepared: dict[str, Any]) -> dict[str, Any]:
    with (workdir / "ran").open("a") as file:
        file.write(".")
    return {"size": call.config.size, **prepared}


def plan(call: Call) -> int | None:
    if not call.options.plan:
        return None
    print(f"would be {call.config.size}")
    return 0


TOY = Experiment(
    module="tests.toy",
    doc="A toy.\n\nIt does little.",
    config=ToyConfig,
    options=ToyOptions,
    presets=(none, large),
    quick={"size": 2},
    check=check,
    prepare=lambda call: {"name": "toys"},
    facts=lambda prepared: prepared,
    num_devices=None,
    run=run,
    status=lambda summary: int(summary["size"] > 50),
    runs_again=lambda call: call.options.again,
    without_workdir=plan,
)


def failing(error: BaseException) -> Experiment:
    """The toy, whose work ends with an error."""

    def fail(call: Call, workdir: Path, prepared: dict[str, Any]) -> dict[str, Any]:
        raise error

    return dataclasses.replace(TOY, run=fail)


def last_line(capsys) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_run_is_done_once_and_then_reprinted(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert attempt_experiment(TOY, [f"--workdir={workdir}", "--size=4"]) == 0
    summary = last_line(capsys)
    assert summary["size"] == 4 and summary["wall_seconds"] > 0 and list(summary)[-1] == "wall_seconds"
    assert json.loads((workdir / "config.json").read_text()) == {
        "script": "toy",
        **dataclasses.asdict(ToyConfig(size=4)),
    }
    assert json.loads((workdir / "data.json").read_text()) == {"name": "toys"}
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert attempt_experiment(TOY, [f"--workdir={workdir}", "--size=4"]) == 0
    assert last_line(capsys) == summary and (workdir / "ran").read_text() == "."
    assert attempt_experiment(TOY, [f"--workdir={workdir}", "--size=4", "--again"]) == 0
    assert (workdir / "ran").read_text() == ".."


def test_the_exit_status_is_what_the_summary_means(tmp_path):
    arguments = [f"--workdir={tmp_path / 'run'}", "--size=60"]
    assert [attempt_experiment(TOY, arguments) for _ in range(2)] == [1, 1]


def test_work_without_a_folder(tmp_path, capsys):
    assert attempt_experiment(TOY, ["--plan", "--size=7", f"--workdir={tmp_path / 'new'}"]) == 0
    assert capsys.readouterr().out == "would be 7\n" and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "texts, size, kind",
    [
        ({}, 3, "round"),
        ({"preset": "large"}, 100, "square"),
        ({"preset": "large", "size": "3"}, 3, "square"),
        ({"quick": "true"}, 2, "round"),
        ({"quick": "true", "size": "3", "kind": "square"}, 3, "square"),
        ({"quick": "false"}, 3, "round"),
    ],
)
def test_flags_win_over_presets_and_these_over_defaults(texts, size, kind):
    config = call_from_texts(TOY, texts).config
    assert (config.size, config.kind) == (size, kind)


def test_values_are_read_as_their_knobs_are():
    call = call_from_texts(TOY, {"share": "0.5", "text": "c", "again": "true"})
    assert call.config == ToyConfig(share=0.5) and call.given == {"share", "text", "again"}
    assert list(call.options.text) == ["c"] and call.options.again and not call.options.plan
    for name, text in (("size", "many"), ("kind", "flat"), ("share", "half"), ("again", "perhaps")):
        with pytest.raises(flags.Error, match=name):
            call_from_texts(TOY, {name: text})
    with pytest.raises(flags.Error, match="sise"):
        call_from_texts(TOY, {"sise": "3"})


BAD = [
    (["--size=3"], "expected --workdir"),
    (["--workdir={new}", "--size=0"], "size of at least 1"),
    (["--workdir={new}", "--size=many"], "many"),
    (["--workdir={new}", "--kind=flat"], "flat"),
    (["--workdir={new}", "--sise=3"], "size"),
    (["--workdir={new}", "3"], "flags only"),
    (["--workdir={file}"], "is a file"),
    (["--workdir={full}"], "holds no run"),
    (["--workdir={run}", "--size=4"], "size: 3 -> 4"),
    (["--workdir={other}"], "the data of toys is not the one"),
]


@pytest.mark.parametrize("arguments, says", BAD, ids=[says for _, says in BAD])
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, says):
    places = {name: tmp_path / name for name in ("new", "file", "full", "run", "other")}
    places["file"].write_text("")
    places["full"].mkdir()
    (places["full"] / "mine.txt").write_text("")
    attempt_experiment(TOY, [f"--workdir={places['run']}"])
    attempt_experiment(TOY, [f"--workdir={places['other']}"])
    (places["other"] / "data.json").write_text('{"name": "other toys"}')
    capsys.readouterr()
    assert attempt_experiment(TOY, [argument.format(**places) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert not places["new"].exists()


@pytest.mark.parametrize(
    "error, status, says",
    [
        (StoppedError(signal.SIGTERM), 143, ""),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (ValueError("a mistake\nin two lines"), 2, "error: a mistake in two lines\n"),
        (OSError(errno.ENOSPC, "No space left"), 2, "make room"),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "allow reading and writing"),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), 2, "make the model, the batch"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_ends_the_work_is_a_status_and_at_most_a_line(tmp_path, capsys, error, status, says):
    workdir = tmp_path / "run"
    assert attempt_experiment(failing(error), [f"--workdir={workdir}"]) == status
    out, err = capsys.readouterr()
    assert not out and says in err and err.count("\n") == bool(says)
    is_left = not isinstance(error, ValueError)  # bad input leaves the folder to other settings
    assert (workdir / "config.json").exists() == is_left and not (workdir / "summary.json").exists()
    assert attempt_experiment(TOY, [f"--workdir={workdir}"]) == 0, "the same command goes on"


def test_other_errors_are_raised(tmp_path):
    with pytest.raises(RuntimeError, match="unheard of"):
        attempt_experiment(failing(RuntimeError("unheard of")), [f"--workdir={tmp_path / 'run'}"])


def test_a_damaged_summary_is_made_again(tmp_path):
    arguments = [f"--workdir={tmp_path / 'run'}"]
    attempt_experiment(TOY, arguments)
    (tmp_path / "run/summary.json").write_text('{"size": ')
    assert attempt_experiment(TOY, arguments) == 0 and (tmp_path / "run/ran").read_text() == ".."


def test_help_is_the_docstring_and_every_flag(tmp_path, capsys):
    assert attempt_experiment(failing(AssertionError()), ["--help", f"--workdir={tmp_path / 'run'}"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("A toy.\n\nIt does little.\n")
    for name in flag_names(TOY):
        assert f"\n  --{name}=" in shown
    assert "--size=3\n        how large" in shown and "large: Large and square." in shown


def test_a_folder_has_one_process(tmp_path, capsys):
    with locked(tmp_path / "run"):
        assert attempt_experiment(TOY, [f"--workdir={tmp_path / 'run'}"]) == 2
    assert "another process is at work in" in capsys.readouterr().err
    assert attempt_experiment(TOY, [f"--workdir={tmp_path / 'run'}"]) == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.frame.workdir import locked
with locked(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_no_lock(tmp_path, scripts):
    done = scripts.execute([sys.executable, "-c", KILLED, str(tmp_path / "run")])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert attempt_experiment(TOY, [f"--workdir={tmp_path / 'run'}"]) == 0


def test_devices_and_kept_programs_are_what_the_call_asks_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(start, "prepare_jax", lambda *each: asked.append(each))
    toy = dataclasses.replace(TOY, num_devices=lambda config: config.size)
    attempt_experiment(toy, [f"--workdir={tmp_path / 'a'}", "--size=2"])
    attempt_experiment(toy, [f"--workdir={tmp_path / 'b'}", "--nocompilation_cache"])
    assert asked == [(2, True, None), (3, False, None)]


BESIDE = (ablate.EXPERIMENT, compile_for.EXPERIMENT, forecast.EXPERIMENT)  # which are not ablated
SCRIPTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__")


def test_every_script_is_a_value_that_something_runs():
    """Those with a run's folder can be ablated; a script that was forgotten would be missing here."""
    of_runs = {each.name for each in EXPERIMENTS if each.module == f"experiments.{each.name}"}
    assert sorted([*of_runs, *COMMANDS, *(each.name for each in BESIDE)]) == SCRIPTS
    for experiment in (*EXPERIMENTS, *BESIDE):
        path = ROOT / experiment.module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), experiment.module


HEAVY = {"jax", "flax", "optax", "orbax", "scipy", "matplotlib", "pandas", "tokenizers"}


def test_nothing_heavy_is_imported_before_the_flags_are_read(scripts):
    modules = ", ".join(f"experiments.{name}" for name in (*SCRIPTS, "claims"))
    code = f"import sys, {modules}\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = scripts.execute([sys.executable, "-c", code])
    assert done.stdout == "[]\n", (done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (["-h"], True),
        (["--again", "-h"], True),
        (["--text=a", "-h"], True),
        (["--text", "a", "-h"], True),
        (["--text", "--help"], True),
        (["--text", "-h"], False),
        (["--text", "--text", "-h"], True),
        (["--text=-h"], False),
    ],
)
def test_help_is_asked_for_by_a_flag_and_not_by_a_value(tmp_path, capsys, arguments, helps):
    assert attempt_experiment(TOY, [f"--workdir={tmp_path / 'run'}", *arguments]) == 0
    assert capsys.readouterr().out.startswith("A toy.") == helps

"""Runs that begin with the parameters of another; the mean of several; checkpoints by name."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmseq import runs
from lmseq.config import knobs
from lmseq.config.counts import NgramConfig
from lmseq.config.language_model import LanguageModelConfig, ModelConfig
from lmseq.config.series import SeriesConfig
from lmseq.config.training import TrainConfig
from lmseq.data.tokens import build_vocab
from lmseq.models.build import build_model
from lmseq.training import checkpoint
from lmseq.training.beginning import begun_with, init_state
from lmseq.training.checkpoint import load_params, load_state, steps_kept
from lmseq.training.optimizer import make_optimizer, make_schedule
from tests.scripts import SMALL, VECTORS, Made, figures, records, refusal, summary_of

TEXT = "".join(topics.values())
FLAGS = [
    *SMALL,
    *VECTORS,
    "--batch_size=8",
    "--eval_every=20",
    "--checkpoint_every=20",
    "--schedule=constant",
]
MODEL = build_model(ModelConfig(model="gru", hidden_size=4), 7)
TRAIN = TrainConfig(schedule="constant", num_train_steps=50, eval_every=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory, scripts) -> Made:
    root = tmp_path_factory.mktemp("made")
    (root / "text.txt").write_text(TEXT[:12_000], encoding="utf-8")
    return Made(scripts, root, [f"--corpus={root / 'text.txt'}", *FLAGS])


# From another run


def test_a_run_begins_with_the_parameters_of_another(tmp_path, scripts, made):
    """And resumes without it; symbols of the new text that it does not know are named."""
    other, text, workdir = tmp_path / "other", tmp_path / "new.txt", tmp_path / "run"
    shutil.copytree(made(40), other)
    text.write_text(TEXT[1_000:10_000] + "ŒŒΩ", encoding="utf-8")
    flags = [
        f"--corpus={text}",
        *FLAGS,
        "--num_train_steps=60",
        f"--init_from={other}:20",
        "--keep_checkpoints=9",
    ]
    done = scripts.run("train_lm", f"--workdir={workdir}", *flags)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "not in the vocabulary" in line]
    assert "'Œ', 'Ω'" in line and "<unk>" in line
    assert (workdir / "vocab.json").read_bytes() == (other / "vocab.json").read_bytes()
    theirs = runs.load_run(f"{other}:20")
    ours = load_params(workdir, theirs.model, "0").params
    jax.tree.map(np.testing.assert_array_equal, ours, theirs.params)
    noted = json.loads((workdir / "corpus.json").read_text())["init"]
    assert noted == {
        "path": str(other.resolve()),
        "step": 20,
        "params_digest": checkpoint.digest(theirs.params),
    }
    assert records(workdir)[0]["train_loss"] < records(made(40))[0]["train_loss"]  # of its first steps
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    (again / "summary.json").unlink()
    for step in steps_kept(again):
        if step > 20:
            shutil.rmtree(again / "checkpoints" / str(step))
    shutil.rmtree(other)
    summary = scripts.summary("train_lm", f"--workdir={again}", *flags)
    assert figures(summary) == figures(summary_of(workdir)) and records(again) == records(workdir)
    shutil.rmtree(again / "checkpoints")
    (again / "summary.json").unlink()
    _, last = refusal(scripts.attempt("train_lm", f"--workdir={again}", *flags))
    assert f"expected a run or an ARPA file in {other}" in last
    shutil.copytree(made(40), other)
    facts = json.loads((again / "corpus.json").read_text())
    facts["init"] |= {"step": 10, "params_digest": "of what it was"}
    (again / "corpus.json").write_text(json.dumps(facts))
    _, last = refusal(scripts.attempt("train_lm", f"--workdir={again}", *flags))
    assert f"{other}:20 is at step 20 now, and not what {again} began with, step 10" in last


@pytest.fixture(scope="module")
def begun(made) -> Path:
    """A run that took over parameters and optimiser state."""
    return made(5, f"--init_from={made(40)}", "--init_optimizer", "--keep_checkpoints=9")


def test_another_run_to_begin_with_is_a_changed_flag(tmp_path, scripts, made, begun):
    flags = [
        f"--workdir={begun}",
        *made.flags,
        "--num_train_steps=5",
        "--keep_checkpoints=9",
        "--init_optimizer",
    ]
    done = scripts.attempt("train_lm", *flags, f"--init_from={made(40)}:20")
    assert f"init_from: '{made(40)}' -> '{made(40)}:20'" in refusal(done)[1]
    done = scripts.attempt("train_lm", *flags[:-1])
    assert f"init_from: '{made(40)}' -> ''" in refusal(done)[1]
    shutil.copytree(made(40), tmp_path / "moved")  # the same run, wherever it lies
    done = scripts.attempt("train_lm", *flags, f"--init_from={tmp_path / 'moved'}")
    assert json.loads(done.stdout) == summary_of(begun)


def test_the_optimiser_goes_on_and_its_schedule_begins_anew(made, begun):
    run = runs.load_run(made(40))
    like = jax.eval_shape(lambda key: init_state(key, run.model, run.config.train, 8), jax.random.key(0))
    theirs, ours = load_state(made(40), like)[0].state, load_state(begun, like, "0")[0].state
    counts = [
        sorted(int(count) for _, count in optax.tree_utils.tree_get_all_with_path(state.opt_state, "count"))
        for state in (theirs, ours)
    ]
    assert counts == [[40, 40], [0, 40]]
    for name in ("mu", "nu"):
        moments = [optax.tree_utils.tree_get(state.opt_state, name) for state in (ours, theirs)]
        jax.tree.map(np.testing.assert_array_equal, *moments)


def test_several_processes_begin_alike(tmp_path, scripts, made, begun):
    """What is saved is what each of them has, to rounding that of one: a digest says so when it is loaded."""
    given = [*made.flags, f"--workdir={tmp_path / 'run'}", "--num_train_steps=5", "--keep_checkpoints=9"]
    given += [f"--init_from={made(40)}", "--init_optimizer", "--num_local_processes=2"]
    scripts.summary("train_lm", *given)
    together, alone = (runs.load_run(folder).params for folder in (tmp_path / "run", begun))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), together, alone)


def test_fresh_and_given_optimiser_states():
    """Against optax alone: one step from the given state at the schedule's first learning rate."""
    optimizer = make_optimizer(TRAIN)
    params = jax.jit(MODEL.init)(jax.random.key(1))
    fresh = begun_with(MODEL, TRAIN, 2, params)
    jax.tree.map(np.testing.assert_array_equal, fresh.state.opt_state, optimizer.init(params))
    grads = jax.tree.map(jnp.ones_like, params)
    state = optimizer.init(params)
    for _ in range(3):
        _, state = optimizer.update(grads, state, params)
    given_state = begun_with(MODEL, TRAIN, 2, params, state).state.opt_state
    updates, _ = optimizer.update(grads, given_state, params)
    clipped, _ = optax.clip_by_global_norm(TRAIN.clip_norm).update(grads, optax.EmptyState())
    adam = next(each for each in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(each))
    direction, _ = optax.scale_by_adam().update(clipped, adam)
    rate = make_schedule(TRAIN)(0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -rate * b, rtol=1e-6), updates, direction)


def is_adam(node) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def test_parameters_of_another_shape_are_named():
    params = build_model(ModelConfig(model="gru", hidden_size=5), 7).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"expected parameters of the same shapes, got .*: \(.*\) there"):
        begun_with(MODEL, TRAIN, 2, params)
    sgd = make_optimizer(dataclasses.replace(TRAIN, optimizer="sgd"))
    params = MODEL.init(jax.random.key(0))
    with pytest.raises(ValueError, match="expected optimiser state of the same shapes"):
        begun_with(MODEL, TRAIN, 2, params, sgd.init(params))


# What is refused


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Folders that hold no run to begin with."""
    root = tmp_path_factory.mktemp("others")
    for name, config in {"predict_series": SeriesConfig(), "train_ngram": NgramConfig()}.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(knobs.to_json(config, name))
    return root


BAD = [
    ("--init_from={run} --hidden_size=24", "hidden_size: 16 there, 24 here"),
    ("--init_from={run} --model=rnn --hidden_size=24", "model: gru there, rnn here"),
    ("--init_from={run} --level=word", "level: char there, word here"),
    ("--init_from={run} --normalize=letters", "normalize: none there, letters here"),
    ("--init_from={run} --min_count=2", "--min_count does nothing here"),
    ("--init_from={run}:30", "step 30 is not kept in {run}: choose one of 20, 40"),
    ("--init_from={others}/none", "expected a run or an ARPA file in {others}/none"),
    ("--init_from={others}/predict_series", "it holds a run of predict_series"),
    ("--init_from={others}/train_ngram", "it holds a run of train_ngram"),
    ("--init_from={run} --init_optimizer --optimizer=sgd", "optimizer: adam there, sgd here"),
    ("--init_optimizer", "init_optimizer=True does nothing here"),
]


@pytest.mark.parametrize("flags, says", BAD, ids=[flags for flags, _ in BAD])
def test_mistakes_are_one_line(tmp_path, scripts, made, others, flags, says):
    places = {"run": made(40), "others": others}
    given = [f"--workdir={tmp_path / 'new'}", "--num_train_steps=20", *flags.format(**places).split()]
    _, last = refusal(scripts.attempt("train_lm", *made.flags, *given))
    assert says.format(**places) in last
    assert not (tmp_path / "new").exists()


# The mean of the weights


def test_a_mean_is_that_of_numpy():
    rng = np.random.default_rng(0)
    parts = [
        {"a": rng.normal(size=(3, 2)).astype(np.float32), "b": np.float32(rng.normal())} for _ in range(3)
    ]
    found = runs.mean_params(parts)
    for name in ("a", "b"):
        stacked = np.stack([part[name] for part in parts]).astype(np.float64)
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], stacked.mean(axis=0).astype(np.float32))


def test_an_average_is_a_run(tmp_path, scripts, made, begun):
    """Of numpy's mean; scored, sampled from, mixed and begun with like any other."""
    workdir, run = tmp_path / "mean", made(40)
    flags = [f"--runs={run}:20,{run},{begun}:best", f"--workdir={workdir}"]
    done = scripts.run("average", *flags)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    found, parts = runs.load_run(workdir), [runs.load_run(f"{run}:20"), runs.load_run(run)]
    parts.append(runs.load_run(begun, "best"))

    def check(mean, *leaves):
        np.testing.assert_allclose(
            mean, np.mean(np.stack(leaves), axis=0, dtype=np.float64), rtol=1e-6, atol=1e-8
        )

    jax.tree.map(check, found.params, *(part.params for part in parts))
    assert summary["params_digest"] == checkpoint.digest(found.params)
    assert [each["step"] for each in summary["runs"]] == [part.step for part in parts]
    for split in ("valid", "test"):
        assert summary["runs"][1][f"{split}_loss"] == pytest.approx(
            summary_of(run)[f"{split}_loss"], rel=1e-6
        )
    assert json.loads(scripts.attempt("average", *flags).stdout) == summary
    scored = scripts.attempt("score_text", f"--run={workdir}", "--text=the class")
    assert math.isfinite(json.loads(scored.stdout.splitlines()[-1])["log_likelihood"])
    mixed = scripts.summary("mix_models", f"--runs={workdir},{run}:20", f"--workdir={tmp_path / 'mixed'}")
    assert mixed["valid_loss"] <= summary["valid_loss"] + 1e-6
    assert runs.load_run(tmp_path / "mixed").vocab == found.vocab
    begins = [*made.flags, "--num_train_steps=5", f"--init_from={workdir}", "--keep_checkpoints=9"]
    scripts.summary("train_lm", f"--workdir={tmp_path / 'run'}", *begins)
    ours = load_params(tmp_path / "run", found.model, "0").params
    jax.tree.map(np.testing.assert_array_equal, ours, found.params)
    begins += ["--init_optimizer", f"--workdir={tmp_path / 'new'}"]
    assert "is an average" in refusal(scripts.attempt("train_lm", *begins))[1]


def test_averages_that_are_refused(tmp_path, scripts, made, others):
    run, new = made(40), f"--workdir={tmp_path / 'new'}"
    for named, says in {
        f"{run}": "two or more",
        f"{run},{others / 'predict_series'}": "it holds a run of predict_series",
        f"{run}:20,{run}:21": "step 21 is not kept",
    }.items():
        assert says in refusal(scripts.attempt("average", f"--runs={named}", new))[1]
    assert not (tmp_path / "new").exists()


def test_what_is_averaged_must_be_alike():
    """The first setting or symbols that differ are named; how each was trained does not matter."""

    def run_of(text: str = "abc", **settings):
        config = LanguageModelConfig(model=ModelConfig(**settings))
        return runs.Run(config, build_vocab(text, level="char"), MODEL, {})

    runs.check_alike(["a", "b"], [run_of(), run_of(dropout=0.5, backend="scan")])
    with pytest.raises(ValueError, match=r"a and b are different models \(hidden_size: 256 there, 64 here\)"):
        runs.check_alike(["a", "b"], [run_of(), run_of(hidden_size=64, num_layers=2)])
    with pytest.raises(ValueError, match=r"a and b have different vocabularies \(tokens: 4 symbols, 5\)"):
        runs.check_alike(["a", "b"], [run_of(), run_of("abcd")])
    counts = runs.Run(NgramConfig(), build_vocab("abc", level="char"), MODEL, {})
    with pytest.raises(ValueError, match="expected runs of train_lm, b is none"):
        runs.check_alike(["a", "b"], [run_of(), counts])


def test_names_of_checkpoints(tmp_path, made):
    assert runs.split_run("a/b:best") == (Path("a/b"), "best")
    assert runs.split_run("a/b:20") == (Path("a/b"), "20")
    for plain in ("a/b", "a/b:c", "a:b/c", ":20", "a/b:-1"):
        assert runs.split_run(plain) == (Path(plain), "")
    folder = tmp_path / "x:20"
    folder.mkdir()
    assert runs.split_run(folder) == (folder, "")
    assert runs.load_run(f"{made(40)}:20").step == 20
    table = tmp_path / "a.arpa"
    table.write_text("")
    with pytest.raises(ValueError, match="has no checkpoints: leave :20 out"):
        runs.load_run(f"{table}:20")

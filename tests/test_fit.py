"""Training by `fit`: stopped anywhere and gone on with, silent, and refused in one line."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from lmseq import generation, rollout, scoring
from lmseq.config.language_model import DataConfig, LanguageModelConfig, ModelConfig
from lmseq.config.series import SeriesModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import sliding
from lmseq.files import locked
from lmseq.models.build import build_model, build_series_model
from lmseq.training import fit as fitting
from lmseq.training import loop, optimizer, sharding, state, train_step
from lmseq.training.checkpoint import load_params
from lmseq.training.fit import Fitted, fit, fit_members, train
from lmseq.training.folder import FACTS, described
from lmseq.training.job import Batches, Job
from lmseq.training.memory import check_carries, check_memory
from lmseq.training.objectives import teacher_forcing
from tests.oracles import random_stream, text_plans
from tests.scripts import figures
from tests.test_contract import Elman

V = 3
STREAM = random_stream(400, vocab_size=V)
BATCHES = Batches(batch_size=8, num_steps=5)
CONFIG = TrainConfig(
    learning_rate=0.02,
    warmup_steps=2,
    num_train_steps=14,
    steps_per_dispatch=4,
    eval_every=6,
    checkpoint_every=8,
)
ENDS = [4, 6, 8, 12, 14]
GRU = build_model(ModelConfig(hidden_size=6, dropout=0.3), V)


def assert_same_bits(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def names(folder):
    return {path.name for path in folder.iterdir()}


def evaluate(params, step):
    return {"valid_loss": scoring.mean_loss(GRU, params, STREAM[:50])}


def untimed(records):
    return [figures(record) for record in records]


def test_the_defaults_are_those_of_the_scripts():
    data = DataConfig()
    assert Batches() == (data.batch_size, data.num_steps, data.partition, data.random_windows)


# The loop


@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_it_is_the_loop_of_dispatches(partition):
    """The same keys, plans, programs and cuts, put together by hand."""
    params, records = fit(GRU, STREAM, CONFIG, batches=BATCHES._replace(partition=partition))
    keys, updates, mesh = state.split_key(CONFIG.seed), optimizer.make_optimizer(CONFIG), sharding.make_mesh()
    fresh = state.init_training_jit(keys.init, GRU, updates, 8)
    loop_state = jax.device_put(fresh, sharding.training_sharding(mesh, fresh))
    dispatch = train_step.make_dispatch(GRU, updates, 5, mesh=mesh)
    settings = LanguageModelConfig(DataConfig(partition=partition, batch_size=8, num_steps=5), train=CONFIG)
    tokens, plans = jax.device_put(STREAM, sharding.replicated(mesh)), text_plans(settings, STREAM.size)
    for done, record in zip(
        loop.dispatches(CONFIG, plans, dispatch, mesh, loop_state, tokens, keys.train), records, strict=True
    ):
        loop_state, totals = done.loop_state, done.metrics.totals
        assert record["step"] == done.step
        assert record["train_loss"] == float(totals.nll.sum(dtype=np.float64) / totals.count.sum())
        assert record["grad_norm"] == float(done.metrics.grad_norm[-1])
    assert_same_bits(params, loop_state.state.params)
    assert [record["step"] for record in records] == ENDS


def test_the_seed_fixes_it_and_nothing_is_compiled_twice():
    fit(GRU, STREAM, CONFIG, batches=BATCHES)
    before = fitting._programs.cache_info().misses
    one, again, other = (
        fit(GRU, STREAM, dataclasses.replace(CONFIG, seed=seed), batches=BATCHES) for seed in (3, 3, 4)
    )
    assert fitting._programs.cache_info().misses == before
    assert_same_bits(one.params, again.params)
    assert one.records[-1]["train_loss"] != other.records[-1]["train_loss"]


def test_callbacks_see_what_is_returned():
    seen = []
    fitted = fit(GRU, STREAM, CONFIG, batches=BATCHES, evaluate=evaluate, on_dispatch=seen.append)
    assert isinstance(fitted, Fitted) and seen == fitted.records
    evaluated = [record["step"] for record in seen if "valid_loss" in record]
    assert evaluated == [6, 12, 14]
    assert seen[-1]["valid_loss"] == evaluate(fitted.params, 14)["valid_loss"]


def test_it_is_silent_and_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(GRU, STREAM, CONFIG, batches=BATCHES, evaluate=evaluate)
    assert not names(tmp_path)
    fit(GRU, STREAM, CONFIG, batches=BATCHES, workdir="run")
    assert capfd.readouterr() == ("", "")
    assert names(tmp_path / "run") == {".lock", "checkpoints", "metrics.jsonl", "tensorboard", FACTS}


# Stopped and gone on with


@pytest.mark.parametrize("end", ENDS)
def test_stopped_at_any_dispatch_it_goes_on_as_if_it_had_not(tmp_path, end):
    whole = fit(GRU, STREAM, CONFIG, batches=BATCHES, evaluate=evaluate)
    given = {"batches": BATCHES, "workdir": tmp_path / "run", "evaluate": evaluate}
    seen = []
    stopped = fit(
        GRU,
        STREAM,
        CONFIG,
        **given,
        on_dispatch=seen.append,
        should_stop=lambda: seen[-1]["step"] == end,
    )
    assert [record["step"] for record in stopped.records] == ENDS[: ENDS.index(end) + 1]
    assert str(end) in names(tmp_path / "run" / "checkpoints")
    for _ in range(2):  # goes on; then finds it finished
        again = fit(GRU, STREAM, CONFIG, **given)
        assert_same_bits(again.params, whole.params)
        assert untimed(again.records) == untimed(whole.records)
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert written == again.records


def test_a_training_that_was_stopped_says_so():
    job = Job(GRU, STREAM, CONFIG, BATCHES)
    begun = []
    assert train(job, should_stop=lambda: True).stopped
    whole = train(job, on_begin=begun.append)
    assert not whole.stopped and begun[0].step == 0 and not begun[0].skipped
    assert begun[0].num_parameters == sum(leaf.size for leaf in jax.tree.leaves(whole.params))


def test_seconds_add_up_over_processes(tmp_path):
    """By a clock that moves on by one second each time it is looked at."""

    def clock_from_zero():
        ticks = iter(range(10**6))
        return lambda: float(next(ticks))

    job = Job(GRU, STREAM, CONFIG, BATCHES, workdir=tmp_path, clock=clock_from_zero())
    first = train(job, should_stop=lambda: True)
    begun = []
    second = train(job._replace(clock=clock_from_zero()), on_begin=begun.append)
    assert begun[0].step == ENDS[0] and begun[0].progress.seconds == second.seconds_before > 0
    assert first.seconds_before == 0.0 and first.progress.seconds >= second.seconds_before
    assert second.progress.seconds > second.seconds_before + len(ENDS) - 1


def test_a_folder_of_another_training_is_refused(tmp_path):
    given = {"batches": BATCHES, "workdir": tmp_path / "run"}
    fit(GRU, STREAM, CONFIG, **given)
    before = (tmp_path / "run" / FACTS).read_text()
    other = dataclasses.replace(CONFIG, num_train_steps=15, seed=2)
    larger = build_model(ModelConfig(hidden_size=7, dropout=0.3), V)
    for model, stream, config, more, message in (
        (GRU, STREAM, other, {}, r"num_train_steps: 14 -> 15; seed: 0 -> 2\): choose another workdir"),
        (larger, STREAM, CONFIG, {}, "model: "),
        (build_model(ModelConfig(hidden_size=6, dropout=0.2), V), STREAM, CONFIG, {}, "model: "),
        (GRU, STREAM[:-1], CONFIG, {}, "stream: "),
        (GRU, STREAM[::-1], CONFIG, {}, "stream_sha256: "),
        (GRU, STREAM, CONFIG, {"objective": another_objective}, "objective: "),
        (GRU, STREAM, CONFIG, {"batches": BATCHES._replace(partition="random")}, "partition: 'sequential'"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, stream, config, **{**given, **more})
    assert (tmp_path / "run" / FACTS).read_text() == before
    (tmp_path / "run" / FACTS).write_text("[]")
    with pytest.raises(ValueError, match="is damaged"):
        fit(GRU, STREAM, CONFIG, **given)


def test_a_folder_goes_on_that_was_begun_before_a_setting_was_there(tmp_path):
    given = {"batches": BATCHES, "workdir": tmp_path}
    params, _ = fit(GRU, STREAM, CONFIG, **given)
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts.pop("accumulate_steps") == 1 and facts.pop("shard") == "batch"
    (tmp_path / FACTS).write_text(json.dumps(facts))
    assert_same_bits(fit(GRU, STREAM, CONFIG, **given).params, params)


def test_a_spread_training_is_the_training_and_goes_on(tmp_path):
    """To rounding, which Adam makes larger; stopped after a dispatch."""
    width = build_model(ModelConfig(hidden_size=8, dropout=0.3), V)
    whole = fit(width, STREAM, CONFIG, batches=BATCHES).params
    config = dataclasses.replace(CONFIG, shard="params")
    given = {"batches": BATCHES, "workdir": tmp_path}
    fit(width, STREAM, config, **given, should_stop=lambda: True)
    spread = fit(width, STREAM, config, **given).params
    kernel = spread["recurrent_kernel_0"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), jax.device_get(spread), whole)


def another_objective(model, params, carry, batch, step):
    return train_step.window_loss(model, params, carry, batch, step)


@pytest.mark.parametrize("name", ["config.json", "checkpoints"])
def test_a_folder_that_fit_did_not_begin_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="did not begin: choose another workdir"):
        fit(GRU, STREAM, CONFIG, batches=BATCHES, workdir=tmp_path)
    assert not (tmp_path / FACTS).exists()


def test_a_folder_at_work_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another process is at work in"):
        fit(GRU, STREAM, CONFIG, batches=BATCHES, workdir=tmp_path)


def test_what_two_processes_call_the_model_is_the_same():
    """The text that a folder knows a model by holds no places in memory."""
    assert " at 0x" in repr(GRU) and " at 0x" not in described(GRU)
    assert described(partial(teacher_forcing, tau=2)) != described(partial(teacher_forcing, tau=3))


# A model of one's own


def test_a_model_of_four_methods_does_all_that_models_do(tmp_path):
    """Trained, saved, loaded, scored, sampled and rolled out, by functions that were not written for it."""
    model, alternating = Elman(2, 8), np.arange(600, dtype=np.int32) % 2
    config = TrainConfig(learning_rate=0.05, num_train_steps=60, warmup_steps=5, checkpoint_every=30)
    params, records = fit(
        model,
        alternating,
        config,
        batches=BATCHES,
        workdir=tmp_path,
        evaluate=lambda params, step: {"valid_loss": scoring.mean_loss(model, params, alternating[:50])},
    )
    assert records[-1]["train_loss"] < 0.1
    for which in ("latest", "best"):
        loaded = load_params(tmp_path, Elman(2, 8), which)
        assert loaded.step == 60
        assert_same_bits(loaded.params, params)
    assert scoring.mean_loss(model, loaded.params, alternating) < 0.1
    tokens = generation.generate(jax.random.key(0), model, loaded.params, alternating[:1], num_tokens=9)
    assert tokens.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    ahead = rollout.k_step_log_probs(
        jax.random.key(0), model, loaded.params, alternating, max_horizon=5, num_origins=4, num_samples=3
    )
    assert (np.exp(ahead) > 0.7).all()


def test_no_parameters_where_there_are_none(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        load_params(tmp_path, GRU)
    fit(GRU, STREAM, CONFIG, batches=BATCHES, workdir=tmp_path)
    with pytest.raises(ValueError, match="no checkpoint has a validation loss"):
        load_params(tmp_path, GRU, "best")
    with pytest.raises(ValueError, match="expected checkpoint latest, best or a step, got 'first'"):
        load_params(tmp_path, GRU, "first")
    with pytest.raises(ValueError, match="cannot be used"):
        load_params(tmp_path, Elman(V, 5))


def test_a_series_has_no_perplexity(tmp_path):
    """Metrics of both kinds: tokens have a perplexity, a density has none."""
    config = dataclasses.replace(CONFIG, eval_every=100)
    values = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    model = build_series_model(SeriesModelConfig(model="mlp", tau=3, hidden_size=5), 2)
    batches = Batches(16, 6, sliding)

    def objective(model, params, carry, batch, step):
        return teacher_forcing(model, params, carry, batch, step, tau=3)

    fit(model, values, config, batches=batches, objective=objective, workdir=tmp_path / "series")
    fit(GRU, STREAM, config, batches=BATCHES, workdir=tmp_path / "tokens")
    for kind, named in (("series", False), ("tokens", True)):
        lines = (tmp_path / kind / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [record["step"] for record in records] == [4, 8, 12, 14]
        assert all(("train_perplexity" in record) == named and "train_loss" in record for record in records)
        if named:
            assert all(r["train_perplexity"] == pytest.approx(np.exp(r["train_loss"])) for r in records)


# Refused


@pytest.fixture
def unchecked():
    """Without the checks of annotations that only tests make, as a user calls the library."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


MLP = build_series_model(SeriesModelConfig(model="mlp", tau=3, hidden_size=5), 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stream": STREAM[:0]}, "expected a stream to train on, got an empty one"),
        ({"stream": STREAM[:12]}, "expected at least 13 tokens for sequential windows"),
        ({"stream": STREAM + 1}, "expected token ids from 0 to 2, got 1 to 3"),
        ({"stream": STREAM - 1}, "expected token ids from 0 to 2, got -1 to 1"),
        ({"stream": STREAM.astype(np.float32)}, r"expected token ids \(T,\) as the model reads them"),
        ({"stream": STREAM.reshape(-1, 2)}, r"expected token ids \(T,\) .* got int32 \(200, 2\)"),
        ({"model": MLP}, r"expected values \(T, 2\) as the model reads them, got int32 \(400,\)"),
        ({"model": MLP, "stream": np.zeros((90, 3), np.float32)}, r"expected values \(T, 2\)"),
        (
            {"model": MLP, "stream": np.zeros((5, 2), np.float32), "batches": Batches(8, 5, sliding)},
            "expected more than 5 points to train on",
        ),
        ({"config": dataclasses.replace(CONFIG, num_train_steps=2)}, "expected warmup_steps below"),
        ({"config": dataclasses.replace(CONFIG, learning_rate=-1.0)}, "expected a positive learning_rate"),
        ({"model": Elman(V, [3])}, "expected a model and an objective that can be hashed"),
        ({"batches": Batches(8, 0)}, "expected num_steps and batch_size of at least 1"),
        ({"batches": Batches(12, 5)}, "expected a batch_size that 8 devices divide"),
        ({"batches": Batches(8, 5, "shuffled")}, "expected partition random or sequential, got 'shuffled'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, unchecked, change, message):
    given = {
        "model": GRU,
        "stream": STREAM,
        "config": CONFIG,
        "batches": BATCHES,
        "workdir": tmp_path / "run",
    }
    with pytest.raises(ValueError, match=message) as caught:
        fit(**(given | change))
    assert "\n" not in str(caught.value) and not names(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ValueError, match="expected a folder as workdir"):
        fit(GRU, STREAM, CONFIG, batches=BATCHES, workdir=tmp_path / "run")


def test_carries_larger_than_memory_are_refused():
    """Two layers of keys and values of 1000 tokens, how many, the output: 2 (2 x 1000 x 64 + 1) + 64."""
    model = build_model(ModelConfig(model="attention", window=1000, hidden_size=64, num_layers=2), V)
    check_carries(model, {"batch_size": 64})
    complaint = r"carries of 1,000,000,000 rows \(batch_size\) take 1,024,264 bytes each, .*: make batch_size"
    with pytest.raises(ValueError, match=complaint):
        check_carries(model, {"horizon_samples": 1, "batch_size": 10**9})


def test_a_model_larger_than_memory_is_refused():
    huge = build_model(ModelConfig(hidden_size=2**16 - 1, num_layers=400), V)
    with pytest.raises(ValueError, match=r"16 bytes of memory for each.*make the model smaller"):
        check_memory(huge)
    check_memory(GRU, num_members=1000)
    with pytest.raises(ValueError, match=r"trainings of .* parameters do not fit in memory"):
        check_memory(GRU, num_members=2**40)


# Many seeds


def test_members_are_what_fit_gives():
    found = fit_members(GRU, [STREAM], CONFIG, (5, 9), batches=BATCHES)
    for seed, params in zip((5, 9), found, strict=True):
        alone = fit(GRU, STREAM, dataclasses.replace(CONFIG, seed=seed), batches=BATCHES).params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, alone)


def test_members_learn_from_streams_of_their_own():
    """Each member's stream is of one token; another member's token it has never seen."""
    model = build_model(ModelConfig(hidden_size=8), 3)
    config = TrainConfig(learning_rate=0.05, num_train_steps=120, warmup_steps=5, steps_per_dispatch=30)
    streams, seen = [np.full(200, token, np.int32) for token in (1, 2)], []
    found = fit_members(model, streams, config, (5, 9), batches=Batches(4, 8), on_steps=seen.append)
    assert seen == [30, 60, 90, 120]
    for token, params in zip((1, 2), found, strict=True):
        carry = model.update(params, model.init_carry(params, 1), jnp.array([token]))
        log_probs = model.readout(params, carry)[0]
        assert int(np.argmax(log_probs)) == token and np.exp(log_probs[token]) > 0.8


@pytest.mark.parametrize("streams", [[], [STREAM, STREAM], [STREAM, STREAM, STREAM[:-1]]])
def test_streams_that_do_not_fit_the_seeds_are_refused(streams):
    with pytest.raises(ValueError, match="one of the same shape for each of 3 seeds"):
        fit_members(GRU, streams, CONFIG, (5, 9, 11), batches=BATCHES)

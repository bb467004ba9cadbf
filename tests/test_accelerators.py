"""Programs compiled for accelerators that are not here: they compile, and hold what belongs there alone.

Needs the compilers: `make test-accelerators` installs them into an environment of its own.
"""

import json
from functools import cache, partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments import compile_for
from experiments.accelerators import analysis, chips, programs
from experiments.frame import start
from experiments.frame.experiment import call_from_texts
from lmseq.config.knobs import from_flat
from lmseq.config.language_model import LanguageModelConfig, check
from lmseq.config.series import SeriesConfig, num_direct, segment_length
from lmseq.config.training import TrainConfig
from lmseq.data.partition import Plan
from lmseq.models.build import build_model, build_series_model
from lmseq.training import ensemble
from lmseq.training.objectives import make_objective
from lmseq.training.optimizer import make_optimizer
from lmseq.training.sharding import plan_sharding, replicated, training_sharding
from lmseq.training.state import init_training
from lmseq.training.train_step import make_dispatch

ONE, FOUR, TWO_HOSTS, GPU, GPUS = "v5e:1x1", "v5e:2x2", "v5e:2x4", "h100:1", "h100:8"
EVERYWHERE = (ONE, FOUR, TWO_HOSTS, GPU, GPUS)
KINDS = {
    "rnn": {},
    "gru": {"dropout": 0.1},
    "lstm": {"num_layers": 2, "dropout": 0.1, "dropout_kind": "variational"},
    "mingru": {},
    "minlstm": {"num_steps": 600},
    "mlp": {"dropout": 0.1},
    "linear": {},
    "attention": {"dropout": 0.1},
    "gla": {},
    "gated_deltanet": {},
}
VARIANTS = {
    "bfloat16": {"model": "lstm", "precision": "bfloat16"},
    "tf32": {"model": "gru", "precision": "tf32"},
    "recomputed": {"model": "gru", "recompute_steps": 8},
    "parts": {"model": "gru", "accumulate_steps": 2, "dropout": 0.1},
    "embedded": {"model": "gru", "tie_embeddings": True},
    "stack": {"model": "stack", "layers": "rglru,mamba2,attention", "num_key_heads": 1},
    "adamw": {"model": "rnn", "optimizer": "adamw", "weight_decay": 0.1},
}
OBJECTIVES = ("teacher_forcing", "input_noise", "scheduled_sampling", "unrolled", "direct")
SIZES = programs.Sizes(60, 20_000, 1_000)


@pytest.fixture(scope="module", autouse=True)
def compilers():
    if find_spec("libtpu") is None or find_spec("jax_cuda13_plugin") is None:
        pytest.skip("the compilers are not installed: make test-accelerators")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_STDERR_LOG_LEVEL"):
            patch.delenv(name, raising=False)
        chips.prepare_environment()
        yield


@cache
def mesh_of(topology: str) -> Mesh:
    return programs.mesh_of(chips.devices_of(*chips.parse(topology)))


def compiled(topology: str, which: str = "train_step", **settings):
    settings = {"model": "gru", "batch_size": 16, "hidden_size": 128, "num_steps": 16} | settings
    if settings["model"] == "linear":
        del settings["hidden_size"]
    config = check(from_flat(settings, LanguageModelConfig))
    model = build_model(config.model, SIZES.vocab)
    lower = programs.lowered(config, model, SIZES, mesh_of(topology))[which]
    return analysis.analyse(lower().compile(), 2**34)


def belongs(figures, topology: str, *, sent: set[str] = frozenset({"all-reduce"})) -> None:
    """It fits, calls no host, and holds no 64-bit data; the devices send each other what is expected."""
    assert figures["fits"] and figures["flops_per_device"] > 0
    assert figures["on_the_host"] == 0 and figures["wide_types"] == 0
    assert set(figures["collectives"]) == (set() if mesh_of(topology).size == 1 else sent)


@pytest.mark.parametrize("topology", EVERYWHERE)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind, topology):
    belongs(compiled(topology, model=kind, **KINDS[kind]), topology)


@pytest.mark.parametrize("topology", EVERYWHERE)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_precision_and_form(name, topology):
    belongs(compiled(topology, **VARIANTS[name]), topology)


@pytest.mark.parametrize("topology", EVERYWHERE)
@pytest.mark.parametrize("which", ["score", "sample"])
def test_scoring_and_sampling(which, topology):
    belongs(compiled(topology, which), topology, sent=set())


@pytest.mark.parametrize("topology", [FOUR, TWO_HOSTS, GPUS])
def test_a_state_that_is_spread(topology):
    whole, spread = (compiled(topology, model="lstm", hidden_size=512, shard=s) for s in ("batch", "params"))
    assert "all-gather" in spread["collectives"] and spread["wide_types"] == spread["on_the_host"] == 0
    ratio = spread["bytes"]["arguments"] / whole["bytes"]["arguments"]
    assert ratio < 1.3 / mesh_of(topology).size


@pytest.mark.parametrize("kind", ["gru", "lstm", "mingru", "mlp"])
def test_four_times_the_devices_have_a_quarter_of_the_work(kind):
    few, many = (
        compiled(topology, model=kind, batch_size=64, hidden_size=256, num_steps=32)
        for topology in ("v5e:2x2", "v5e:4x4")
    )
    assert few["flops_per_device"] >= 3.5 * many["flops_per_device"]
    assert set(many["collectives"]) == {"all-reduce"}


@pytest.mark.parametrize("topology", [ONE, FOUR, GPUS])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_of_series(objective, topology):
    ahead = {"num_ahead": 3} if objective in ("unrolled", "direct") else {}
    config = from_flat({"objective": objective, "hidden_size": 16, **ahead}, SeriesConfig)
    model = build_series_model(config.model, 2, num_direct=num_direct(config))
    mesh, optimizer, steps = mesh_of(topology), make_optimizer(config.train), segment_length(config)
    fresh = jax.eval_shape(lambda key: init_training(key, model, optimizer, 16), jax.random.key(0))
    placed = programs.placed
    rows = jax.ShapeDtypeStruct((5, 16), jnp.int32)
    plan = placed(Plan(rows, rows, jax.ShapeDtypeStruct((5,), jnp.bool_)), plan_sharding(mesh))
    key, stream = placed(
        (jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((500, 2), jnp.float32)),
        (replicated(mesh),) * 2,
    )
    dispatch = make_dispatch(model, optimizer, steps, make_objective(config), mesh=mesh)
    program = dispatch.lower(placed(fresh, training_sharding(mesh, fresh)), stream, plan, key)
    belongs(analysis.analyse(program.compile(), 2**34), topology)


@pytest.mark.parametrize("topology", EVERYWHERE)
def test_ensembles(topology):
    """Members know nothing of each other: nothing is sent."""
    devices, train = mesh_of(topology).devices.reshape(-1), TrainConfig(num_train_steps=100, warmup_steps=5)
    mesh, count = Mesh(devices, ("member",), axis_types=(AxisType.Auto,)), 8
    model = build_model(from_flat({"hidden_size": 128}, LanguageModelConfig).model, SIZES.vocab)
    split, whole = (NamedSharding(mesh, PartitionSpec(*name)) for name in (("member",), ()))
    keys = jax.eval_shape(jax.vmap(jax.random.key), np.arange(count, dtype=np.uint32))
    init = partial(init_training, model=model, optimizer=make_optimizer(train), batch_size=8)
    rows = jax.ShapeDtypeStruct((count, 5, 8), jnp.int32)
    plan = Plan(rows, rows, jax.ShapeDtypeStruct((count, 5), jnp.bool_))
    members = (jax.eval_shape(jax.vmap(init), keys), plan, keys, {})
    members = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split), members)
    stream = jax.ShapeDtypeStruct((SIZES.train,), jnp.int32, sharding=whole)
    program = ensemble.make_program(model, train, 16, mesh).lower(*members, stream)
    belongs(analysis.analyse(program.compile(), 2**34), topology, sent=set())


@pytest.mark.parametrize("flags", ["", "--batch_size=65536 --num_steps=8192 --hidden_size=2048"])
def test_the_script(tmp_path, capsys, monkeypatch, flags):
    """Exit status 0 with figures of all three programs; 1 where one does not fit."""
    monkeypatch.setattr(start, "prepare_jax", lambda **settings: None)  # this process has begun
    text = tmp_path / "text.txt"
    text.write_text("a rose is a rose is a rose, said the reader; and so it is. " * 20_000)
    given = dict(flag.removeprefix("--").split("=") for flag in flags.split())
    call = call_from_texts(
        compile_for.EXPERIMENT,
        {"topology": ONE, "corpus": str(text), "precision": "bfloat16", "hidden_size": "128"} | given,
    )
    assert compile_for.compile_for(call) == (1 if flags else 0)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == ["train_step", "score", "sample"]
    assert found["train_step"]["fits"] == (not flags) and found["score"]["fits"]
    needed = {"flops_per_device", "bytes", "collectives", "compile_seconds", "fits"}
    assert all(needed <= set(figures) for figures in found.values())

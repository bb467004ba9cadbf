"""Eight devices compute what one computes; one device is the same code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq.config.language_model import DataConfig, LanguageModelConfig, ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.models.build import build_model
from lmseq.training.loop import dispatches
from lmseq.training.optimizer import make_optimizer
from lmseq.training.sharding import check_batch, make_mesh, plan_sharding, replicated, training_sharding
from lmseq.training.state import init_training_jit
from lmseq.training.train_step import make_dispatch
from tests.oracles import text_plans

VOCAB = 7
TOKENS = np.random.default_rng(0).integers(0, VOCAB, 200).astype(np.int32)
MODELS = {
    "gru": ModelConfig(model="gru", hidden_size=6, dropout=0.2),
    "mlp": ModelConfig(model="mlp", hidden_size=6, tau=3, embedding_size=4),
}


def trained(name: str, num_devices: int):
    """Where six steps end, and their losses, with the batch shared by so many devices."""
    config = LanguageModelConfig(
        # 23 inputs a strip at most: the run sees short windows and a second epoch.
        DataConfig(batch_size=8, num_steps=9, partition="sequential" if name == "gru" else "random"),
        MODELS[name],
        TrainConfig(learning_rate=0.02, warmup_steps=2, num_train_steps=6, steps_per_dispatch=3),
    )
    mesh = make_mesh(jax.devices()[:num_devices])
    assert mesh.size == num_devices
    model, optimizer = build_model(config.model, VOCAB), make_optimizer(config.train)
    fresh = init_training_jit(jax.random.key(0), model, optimizer, 8)
    loop_state = jax.device_put(fresh, training_sharding(mesh, fresh))
    tokens = jax.device_put(TOKENS, replicated(mesh))
    dispatch = make_dispatch(model, optimizer, config.data.num_steps)
    ends = list(
        dispatches(
            config.train,
            text_plans(config, len(tokens)),
            dispatch,
            mesh,
            loop_state,
            jnp.asarray(tokens),
            jax.random.key(7),
        )
    )
    return ends[-1].loop_state, [end.metrics for end in ends]


@pytest.mark.parametrize("name", MODELS)
def test_eight_devices_equal_one(name):
    (alone, metrics_alone), (shared, metrics_shared) = trained(name, 1), trained(name, 8)
    for left, right in zip(metrics_alone, metrics_shared, strict=True):
        np.testing.assert_array_equal(left.totals.count, right.totals.count)
        np.testing.assert_allclose(left.totals.nll, right.totals.nll, rtol=1e-5)
    for left, right in zip(
        jax.tree.leaves(alone.state.params), jax.tree.leaves(shared.state.params), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
    # It was shared: each device holds the parameters in full, and one row of what is carried.
    for leaf in jax.tree.leaves(shared.state.params):
        assert len(leaf.addressable_shards) == 8 and leaf.addressable_shards[0].data.shape == leaf.shape
    for leaf in jax.tree.leaves(shared.carry):
        assert {shard.device for shard in leaf.addressable_shards} == set(jax.devices())
        assert all(shard.data.shape[0] == 1 for shard in leaf.addressable_shards)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_what_the_shardings_say(num_devices):
    """Rows in order over the devices; the steps of a plan and the tokens on all of them."""
    mesh = make_mesh(jax.devices()[:num_devices])
    starts = np.arange(3 * 8).reshape(3, 8)
    placed = jax.device_put(starts, plan_sharding(mesh).starts)
    rows = 8 // num_devices
    for shard, device in zip(placed.addressable_shards, jax.devices()[:num_devices], strict=True):
        assert shard.device == device
        first = device.id * rows
        np.testing.assert_array_equal(shard.data, starts[:, first : first + rows])
    assert jax.device_put(starts, replicated(mesh)).is_fully_replicated


def test_a_mesh_is_over_all_devices_unless_some_are_given():
    assert make_mesh().size == len(jax.devices()) == 8
    assert make_mesh(jax.devices()[2:4]).devices.tolist() == jax.devices()[2:4]


@pytest.mark.parametrize(("num_devices", "batch_size"), [(8, 12), (8, 4), (3, 32)])
def test_a_batch_that_the_devices_do_not_divide(num_devices, batch_size):
    mesh = make_mesh(jax.devices()[:num_devices])
    with pytest.raises(ValueError, match=f"that {num_devices} devices divide, got {batch_size}"):
        check_batch(mesh, batch_size)


@pytest.mark.parametrize(("num_devices", "batch_size"), [(1, 5), (8, 8), (8, 64), (3, 6)])
def test_a_batch_that_they_divide(num_devices, batch_size):
    check_batch(make_mesh(jax.devices()[:num_devices]), batch_size)

"""The contract as programs that stand by themselves: of models of series, and what is refused."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import portable
from lmseq.config.series import SeriesModelConfig
from lmseq.contract import StepModel
from lmseq.models.build import build_series_model
from lmseq.types import Covariates


def series_model(kind: str) -> tuple[SeriesModelConfig, int]:
    """Settings of a model of two values, and how many steps it predicts at once."""
    settings = {
        "gru": {"model": "gru", "head": "student"},
        "mlp": {"model": "mlp", "head": "quantiles", "normalisation": "instance", "ensemble": 2},
        "direct": {"model": "linear", "normalisation": "last"},
        "drift": {"model": "drift"},
    }
    return SeriesModelConfig(hidden_size=4, **settings[kind]), 5 if kind == "direct" else 1


@pytest.mark.parametrize("kind", ["gru", "mlp", "direct", "drift"])
def test_models_of_series(kind):
    config, num_direct = series_model(kind)
    model = build_series_model(config, 2, num_direct=num_direct)
    rng, like = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.float32(rng.uniform(-0.5, 0.5, leaf.shape)), like)
    found = portable.portable(model, params, 2)
    call = {name: program.call for name, program in found.programs.items()}
    xs = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
    assert ("readout_direct" in call) == (kind == "direct")
    last = "readout_direct" if kind == "direct" else "readout"

    @jax.jit
    def exported(params):
        carry = call["init_carry"](params, xs)
        for _ in range(2):
            carry = call["update"](params, carry, xs)
        return call[last](params, carry)

    @jax.jit
    def expected(params):
        carry = model.init_carry(params, 3)
        for _ in range(2):
            carry = model.update(params, carry, xs)
        return (model.readout_direct if kind == "direct" else model.readout)(params, carry)._asdict()

    ahead = exported(found.params)
    jax.tree.map(near, ahead, expected(params))
    assert jax.tree.leaves(ahead)[0].shape[:2] == ((3, 5) if kind == "direct" else (3, 2))


def near(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# What cannot be exported


@dataclass(frozen=True)
class Odd(StepModel):
    """A model that knows nothing and does something odd on the way."""

    kind: str

    def init(self, key):
        return {}

    def init_carry(self, params, batch_size):
        return jnp.zeros((2, 1) if self.kind == "no rows" else (batch_size, 1))

    def update(self, params, carry, x):
        if self.kind == "host":
            return jax.pure_callback(lambda c: c, carry, carry)
        if self.kind == "number":
            return carry if carry.shape[0] < 4 else carry + 1.0
        return carry

    def readout(self, params, carry):
        return jnp.zeros((carry.shape[0], 2))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("host", "Odd cannot be exported, its update says: .*callback"),
        ("number", "Odd cannot be exported, its update says: .*rows"),
        ("no rows", r"expected a row in each array of a carry of one row, Odd has \(2, 1\)"),
    ],
)
def test_what_cannot_be_exported_is_named(kind, says):
    with pytest.raises(ValueError, match=says):
        portable.portable(Odd(kind), {})


def test_names_that_are_equal_are_refused():
    with pytest.raises(ValueError, match=r"two parameters are called a\.b"):
        portable.by_name({"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)})
    assert portable.by_name({"a": (np.float32(2.0),)})["a.0"].shape == ()


def test_covariates_are_refused():
    config = SeriesModelConfig(model="gru", hidden_size=4)
    model = build_series_model(config, 1, covariates=Covariates(known=1))
    with pytest.raises(ValueError, match="WindowedRecurrentSeriesModel reads covariates, which cannot be"):
        portable.portable(model, {}, 1)

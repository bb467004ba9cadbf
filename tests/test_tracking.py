"""The claim about tracking: groups against matrices, exact answers under the contract, made-up verdicts."""

import dataclasses
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array, Int

from experiments.claims import answers, tracking
from experiments.claims.groups import GENERATORS, group_named, products
from experiments.claims.tracking import TrackingConfig
from lmseq.contract import StepModel
from lmseq.mixers.matrix_state import Steps, matrix_step
from lmseq.training.gradient import StepInfo
from lmseq.types import Batch, Carry, LogProbs, Params, PRNGKey
from tests.oracles import small
from tests.pictures import is_drawn_on


def matrix_of(permutation) -> np.ndarray:
    """Ones where a thing (row) goes to its image (column)."""
    return np.eye(len(permutation), dtype=int)[list(permutation)]


@pytest.mark.parametrize("name, order", [("parity", 2), ("S3", 6), ("A5", 60), ("S5", 120)])
def test_a_group_is_all_that_its_generators_make(name, order):
    group = group_named(name)
    assert len(group.elements) == len(set(group.elements)) == order
    assert group.elements[0] == tuple(range(len(group.elements[0])))
    assert all(sorted(column) == list(range(order)) for column in group.after.T), "each can be undone"
    even = {round(np.linalg.det(matrix_of(element))) for element in group.elements}
    assert even == ({1} if name == "A5" else {1, -1})


@given(st.sampled_from(sorted(GENERATORS)), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_answers_are_products_of_matrices(name, length, seed):
    group = group_named(name)
    tokens = np.random.default_rng(seed).integers(group.num_generators, size=(3, length), dtype=np.int32)
    for row, answered in zip(tokens, products(group, tokens), strict=True):
        product = np.eye(len(group.elements[0]), dtype=int)
        for token, answer in zip(row, answered, strict=True):
            product = product @ matrix_of(GENERATORS[name][token])
            assert (product == matrix_of(group.elements[answer])).all()


@pytest.mark.parametrize("name", ["S3", "A5"])
def test_steps_alone_tell_nothing(name):
    """After many steps every element is as probable: no part of the answer is the number of steps."""
    group = group_named(name)
    after = np.zeros((len(group.elements),) * 2)
    for generator in range(group.num_generators):
        after[np.arange(len(after)), group.after[:, generator]] += 1 / group.num_generators
    probable = np.linalg.matrix_power(after, 400)[0]
    assert np.abs(probable - 1 / len(after)).max() < 1e-9


@dataclass(frozen=True)
class Product(StepModel):
    """The exact answer: the carry is the product so far, and the prediction is certain of it."""

    task: str

    def init(self, key: PRNGKey) -> Params:
        return {"after": jnp.asarray(group_named(self.task).after)}

    def init_carry(self, params: Params, batch_size: int) -> Int[Array, "batch"]:
        return jnp.zeros(batch_size, jnp.int32)

    def update(self, params: Params, carry: Carry, x: Int[Array, "batch"]) -> Int[Array, "batch"]:
        return params["after"][carry, x]

    def readout(self, params: Params, carry: Int[Array, "batch"]) -> LogProbs:
        return jnp.log(jnp.maximum(jax.nn.one_hot(carry, len(group_named(self.task).elements)), 1e-9))


@pytest.mark.parametrize("task", ["parity", "S3", "A5"])
def test_a_carry_that_is_the_product_answers_at_every_length(task):
    group, model = group_named(task), Product(task)
    tokens = np.random.default_rng(0).integers(group.num_generators, size=(4, 256), dtype=np.int32)
    expected = products(group, tokens)
    assert answers.right_answers(model, model.init(jax.random.key(0)), tokens, expected).all()
    wrong = (expected + 1) % len(group.elements)
    assert not answers.right_answers(model, model.init(jax.random.key(0)), tokens, wrong).any()


@pytest.mark.parametrize("strength, keeps", [(2.0, True), (1.0, False)])
def test_a_delta_rule_that_turns_the_sign_holds_parity(strength, keeps):
    """One bit turns one row of the state round, S <- S - 2 k k^T S, exactly, as often as it comes."""
    bits = np.random.default_rng(0).integers(2, size=(3, 256))
    state, key = jnp.ones((3, 1, 1, 1)), jnp.ones((3, 1, 1))
    for step, bit in enumerate(bits.T):
        steps = Steps(key, key, jnp.zeros((3, 1, 1)), strength * jnp.asarray(bit, float)[:, None])
        state, output = matrix_step(state, steps, delta_rule=True)
        parity = np.cumsum(bits, axis=1)[:, step] % 2
        right = np.asarray(output)[:, 0, 0] == 1 - 2 * parity
        assert right.all() or not keeps
    assert right.all() == keeps


def info(number: int) -> StepInfo:
    return StepInfo(jnp.asarray(number), jax.random.key(0), jnp.asarray(True))


@pytest.mark.parametrize("growing, number, counted", [(0, 0, 5), (10, 0, 1), (10, 4, 3), (10, 99, 5)])
def test_the_loss_is_that_of_the_answers(growing, number, counted):
    """Seven inputs, five answers: those that count, summed by a loop over a model drawn at random."""
    model, params = small("gru", vocab_size=6)
    rows = np.random.default_rng(2).integers(6, size=(3, 12), dtype=np.int32)
    batch = Batch(jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, 1:]), jnp.ones((3, 11), bool))
    loss = answers.answer_loss(
        model, params, None, batch, info(number), num_answers=5, growing_steps=growing
    ).minimised
    _, log_probs = model.unroll(params, model.init_carry(params, 3), jnp.asarray(rows[:, :7]))
    expected = -sum(log_probs[b, 2 + i, rows[b, 7 + i]] for b in range(3) for i in range(counted))
    assert loss.nll == pytest.approx(float(expected), rel=1e-5) and loss.count == 3 * counted


def test_blocks_are_taken_once_each_in_order():
    plan = answers.blocks_in_order(7 * 12 + 3, 11, 2, 0, 0)
    assert plan.starts.tolist() == [[0, 12], [24, 36], [48, 60]]
    assert (plan.lengths == 11).all() and plan.resets.all()


def test_the_carry_is_counted_in_bytes():
    """A small attention keeps keys and values; each leaf of one row's carry is counted once."""
    model, params = small("attention")
    carry = model.init_carry(params, 3)
    assert 3 * answers.carry_bytes(model, params) == sum(leaf.nbytes for leaf in jax.tree.leaves(carry))


# Verdicts

CONFIG = TrackingConfig(tasks="parity,A5", layers="1,2", lengths="32,256")


def records(**far: list[float]) -> list[dict]:
    """Figures as they are promised, but for those at the longest length that are given."""
    found = []
    for unit in tracking.units_of(CONFIG):
        model = unit["model"]
        chance = 1 / len(group_named(unit["task"]).elements)
        keeps = model in (*tracking.CELLS, tracking.TURNS)
        accuracy = [1.0, 1.0] if keeps else [chance, chance + 0.01]
        rows = [[0.99, each] for each in far.get(f"{unit['task']}_{model}_{unit['layers']}", accuracy)]
        found.append({**unit, "accuracy": rows})
    return found


@pytest.mark.parametrize(
    "far, verdict",
    [
        ({}, "holds"),
        ({"parity_gru_1": [0.5, 0.5]}, "fails"),
        ({"parity_gru_1": [1.0, 0.9]}, "undecided"),
        ({"parity_attention_2": [0.99, 0.98]}, "fails"),
        ({"A5_gla_1": [0.7, 0.7]}, "fails"),
        ({"A5_gla_1": [0.2, 0.2]}, "fails"),
        ({"parity_delta_1_1": [1.0, 1.0]}, "fails"),
        ({"parity_delta_2_1": [0.5, 0.5]}, "fails"),
        ({"A5_delta_2_2": [0.1, 0.1]}, "holds"),
        ({"A5_rnn_1": [0.1, 0.1]}, "holds"),
    ],
)
def test_a_figure_against_the_claim_is_noticed(far, verdict):
    from experiments.claims.verdicts import conclude

    summary, checks = tracking.judge(CONFIG, records(**far))
    assert conclude(checks)["verdict"] == verdict
    assert summary["accuracy_parity_lstm_layers_1_at_256"] == 1.0
    assert len(checks) == 2 * 2 + 2 * 2 * 4 + 2, "cells, what loses, and the delta rule on parity"


def test_the_picture_has_a_panel_for_each_task_and_number_of_layers(tmp_path):
    from lmseq import plotting

    panels = tracking.panels(CONFIG, records())
    assert [panel.title[:4] for panel in panels] == ["pari", "A5, ", "pari", "A5, "]
    assert all(len(panel.curves) == len(tracking.CELLS) + len(tracking.MIXERS) for panel in panels)
    assert panels[1].levels["chance"] == pytest.approx(1 / 60)
    plotting.save_figure(plotting.draw_panels(panels), tmp_path / "tracking.png")
    is_drawn_on(tmp_path / "tracking.png")


@pytest.mark.parametrize(
    "setting, complaint",
    [
        ({"tasks": "parity,Z7"}, "Z7"),
        ({"tasks": "S3,S3"}, "each once"),
        ({"lengths": "64,32"}, "ascending"),
        ({"lengths": "2,32"}, "shortest_length"),
        ({"num_seeds": 1}, "num_seeds"),
        ({"growing_steps": 2000}, "growing_steps"),
        ({"num_heads": 3}, "multiple"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_settings_out_of_range_are_refused(setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        tracking.check(dataclasses.replace(TrackingConfig(), **setting))


def test_a_cell_learns_parity_and_a_figure_is_that_of_the_last_quarter():
    """A GRU of 16 units on up to 8 bits; of what is made up to be right, the share in the last quarter."""
    config = TrackingConfig(
        train_length=8, lengths="8,16", cell_size=16, num_seeds=2, num_train_steps=400, growing_steps=200
    )
    found = tracking.accuracies(config, {"task": "parity", "model": "gru", "layers": 1})["accuracy"]
    assert np.shape(found) == (2, 2) and np.min(found) > 0.95
    right = np.zeros((256, 16), bool)
    right[:, 6:8] = right[:, 14:16] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "train_on_answers", lambda *_: [{}, {}])
        patch.setattr(answers, "right_answers", lambda *_: right)
        found = tracking.accuracies(config, {"task": "parity", "model": "gru", "layers": 1})["accuracy"]
    assert found == [[1.0, 0.5], [1.0, 0.5]]


def test_a_measurement_of_all_parts_goes_on(tmp_path):
    """Trainings are made up; a run that is done trains nothing."""
    config = dataclasses.replace(CONFIG, num_seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        made_up = {(r["task"], r["model"], r["layers"]): {"accuracy": r["accuracy"]} for r in records()}
        patch.setattr(tracking, "accuracies", lambda _, unit: made_up[tuple(unit.values())])
        summary = tracking.measure(config, tmp_path)
        patch.setattr(tracking, "accuracies", lambda *_: pytest.fail("measured again"))
        assert tracking.measure(config, tmp_path) == summary
    assert summary["verdict"] == "holds" and json.loads(json.dumps(summary, allow_nan=False)) == summary
    is_drawn_on(tmp_path / "tracking.png")


@pytest.mark.parametrize("model", [*tracking.CELLS, *tracking.MIXERS])
def test_a_net_has_the_same_parameters_at_every_length(model):
    group, unit = group_named("S3"), {"model": model, "layers": 2}
    config = TrackingConfig(hidden_size=16, cell_size=16)
    shapes = [
        jax.eval_shape(tracking.net(config, group, unit, length).init, jax.random.key(0))
        for length in (32, 256)
    ]
    assert shapes[0] == shapes[1]

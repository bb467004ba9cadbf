"""What an ablation would cost: parameters, operations and programs, counted by hand."""

import pytest

from experiments.ablation import costs
from experiments.ablation.design import SweepConfig, read_design


def design(sweep: str, fixed: str, seeds: int = 2, experiment: str = "predict_series", **given):
    config = SweepConfig(experiment=experiment, sweep=sweep, fixed=fixed, seeds=seeds, **given)
    return read_design(config)


FIXED = "preset=one_step model=mlp num_layers=1 hidden_size=8 num_train_steps=50 warmup_steps=5 batch_size=16"


def parameters(tau: int) -> int:
    """Of an MLP of one variable: tau inputs, eight hidden units, one output; weights and biases."""
    return tau * 8 + 8 + 8 + 1


def test_operations_are_six_a_parameter_and_token():
    groups = costs.groups_of(design("tau=2,4", FIXED))
    assert [len(group.cells) for group in groups] == [2, 2], "another tau is another program"
    for tau, group in zip((2, 4), groups, strict=True):
        num_parameters, operations = costs.group_cost(group)
        assert num_parameters == parameters(tau)
        inputs = group.configs[0].data.num_steps + tau - 1  # of a segment of so many whole windows
        assert operations == 2 * 6 * num_parameters * 50 * 16 * inputs


def test_numbers_share_a_program_and_processes_are_counted_apart():
    together = costs.groups_of(design("learning_rate=1e-3,1e-2", FIXED))
    assert [len(group.cells) for group in together] == [4]
    apart = costs.groups_of(design("learning_rate=1e-3,1e-2", FIXED, separate=True))
    assert [(len(group.cells), group.configs) for group in apart] == [(1, None)] * 4
    assert costs.group_cost(apart[0]) == "not known"


def test_what_stands_in_the_way_of_a_setting_is_said():
    found = costs.group_cost(costs.groups_of(design("tau=1000", FIXED))[0])
    assert found.startswith("error: expected at least 1016 points to train on")


@pytest.fixture
def rate(monkeypatch):
    """A machine of a million operations a second, whose JAX is as the tests have it."""
    monkeypatch.setattr(costs, "measured_rate", lambda: 1e6)
    monkeypatch.setattr(costs, "prepare_jax", lambda *given: None)


def test_the_plan_adds_up(rate):
    asked = design("tau=2,4", FIXED)
    operations = sum(costs.group_cost(group)[1] for group in costs.groups_of(asked))
    shown = costs.plan(asked, keep_programs=False)
    assert "4 cells of predict_series: 2 programs, 0 processes" in shown
    assert f"cost: {operations:.3g} operations of training, at least {operations / 1e6:,.1f} s" in shown
    rows = [line for line in shown.splitlines() if "program " in line]
    assert len(rows) == 2 and all("0 ... 1" in row for row in rows)
    assert f"{parameters(2):,}" in rows[0] and f"{parameters(4):,}" in rows[1]


def test_what_is_run_as_processes_has_no_known_cost(rate):
    asked = design("order=2,3", "corpus=python_docs", seeds=1, experiment="train_ngram")
    shown = costs.plan(asked, keep_programs=False)
    assert "2 cells of train_ngram: 0 programs, 2 processes" in shown
    assert "cost: not known (corpus=python_docs)" in shown

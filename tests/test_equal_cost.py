"""The claim about equal costs: sizes beside enumeration, prices and verdicts of made-up figures."""

import dataclasses
import json
import time
from itertools import permutations

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.claims import equal_cost, equal_sizes
from experiments.claims.answers import carry_bytes
from experiments.claims.equal_cost import COSTS, KINDS, EqualCostConfig
from experiments.claims.verdicts import conclude
from lmseq.config.text import TextConfig
from lmseq.data.texts import load_texts
from lmseq.models.build import build_model
from lmseq.models.interface import count_parameters
from lmseq.models.ngram import put_tables
from lmseq.ngram.corpus import from_texts
from lmseq.ngram.counts import FIRST_WORD_ID, count_ngrams
from lmseq.ngram.smoothing import modified_kneser_ney
from tests.pictures import is_drawn_on

CONFIG = EqualCostConfig(
    corpora="made_up", seconds=0.01, num_parameters=4000, carry_bytes=256, num_train_steps=20, num_seeds=3
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Lines of words drawn at random: enough for counts of six orders."""
    rng = np.random.default_rng(0)
    words = ["the", "a", "cat", "dog", "sees", "hears", "and", "one", "two", "mat"]
    lines = "\n".join(" ".join(rng.choice(words, size=8)) for _ in range(400))
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text(lines, encoding="utf-8")
    return load_texts(TextConfig(corpus=str(path)))


# Sizes


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 3000))
def test_the_nearest_size_is_that_of_a_search_of_all(gaps, wanted):
    amounts = np.cumsum(gaps)
    rising = [int(each) for each in amounts] + [10**9 + n for n in range(1 << 7)]
    found = equal_sizes.nearest(lambda n: rising[min(n, len(rising)) - 1], wanted)
    ratios = np.abs(np.log(np.array(rising) / wanted))
    assert ratios[found - 1] == ratios.min()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 400))
def test_neighbours_stand_on_both_sides_of_what_is_wanted(gaps, wanted):
    amounts = [*np.cumsum(gaps).tolist(), *[1000] * 128]
    low, high = equal_sizes._around(lambda n: amounts[min(n, len(amounts) - 1)], wanted)
    assert high == low + 1 and amounts[min(high, len(amounts) - 1)] >= wanted
    assert amounts[low] < wanted or low == 0


@pytest.mark.parametrize(
    "kind, cost, wanted",
    [
        ("mlp", "carry", 64),
        ("lstm", "carry", 256),
        ("attention", "carry", 1024),
        ("gated_deltanet", "carry", 1024),
        ("gla,attention", "parameters", 60_000),
    ],
)
def test_a_net_costs_what_all_cost(kind, cost, wanted):
    """Counted on parameters and a carry that are made."""
    settings = equal_sizes.net_of(kind, cost, wanted, 70)
    model = build_model(settings, 70)
    params = jax.jit(model.init)(jax.random.key(0))
    rows = jax.tree.leaves(jax.jit(model.init_carry, static_argnums=1)(params, 1))
    found = {
        "parameters": count_parameters(params),
        "carry": sum(np.asarray(leaf).nbytes for leaf in rows),
    }
    assert equal_sizes.amounts(settings, 70) == found
    assert abs(found[cost] / wanted - 1) <= (equal_sizes.WITHIN if cost == "parameters" else 0.25)


def test_parameters_that_a_kind_cannot_have_are_refused():
    with pytest.raises(ValueError, match=r"attention has .* choose another number"):
        equal_sizes.net_of("attention", "parameters", 20, 70)


def test_counts_are_the_best_of_those_that_cost_no_more(texts):
    """Beside a search of every order and threshold."""
    counted = from_texts(texts)
    streams, num_words = counted.streams, counted.num_words
    counts = count_ngrams(streams["train"], num_words, equal_sizes.MOST_ORDER)
    every = [
        equal_sizes.count_model(counts, streams, order, pruned)
        for order in range(2, equal_sizes.MOST_PRUNED_ORDER + 1)
        for pruned in range(30)
    ]
    wanted = next(each["parameters"] for each in every if each["order"] == 4 and each["pruned"] == 5)
    found = equal_sizes.best_counts("parameters", wanted, streams, num_words)
    assert abs(found["parameters"] / wanted - 1) <= equal_sizes.WITHIN
    near = [each for each in every if abs(each["parameters"] / wanted - 1) <= equal_sizes.WITHIN]
    assert found["valid"] <= min(each["valid"] for each in near) + 0.02
    short = equal_sizes.best_counts("carry", 8, streams, num_words)
    assert short["carry"] == 8 and short["order"] == 3 and short["pruned"] == 0
    with pytest.raises(ValueError, match="choose another number"):
        equal_sizes.best_counts("carry", 2, streams, num_words)


@pytest.mark.parametrize("order", [2, 4])
def test_counts_carry_the_tokens_of_their_history(texts, order):
    counted = from_texts(texts)
    counts = count_ngrams(counted.streams["train"], counted.num_words, order)
    tables = modified_kneser_ney(counts, discount_fallback=True).tables
    ids = np.arange(FIRST_WORD_ID, counted.num_words)
    model, params = put_tables(tables, ids, has_unknown=False)
    assert carry_bytes(model, params) == 4 * (order - 1)
    found = equal_sizes.count_model(counts, counted.streams, order, 0)
    assert found["parameters"] == sum(np.size(array) for table in tables.orders for array in table)


# Prices


def test_the_price_of_a_step_is_that_of_dispatches_in_turn():
    order = []

    def made_up(name, seconds):
        begun = 50 * seconds  # compiling does not count
        while True:
            order.append(name)
            end = time.process_time() + begun
            while time.process_time() < end:
                pass
            begun = seconds
            yield None

    prices = equal_cost.step_seconds({"dear": made_up("dear", 0.02), "cheap": made_up("cheap", 0.004)}, 3)
    assert order == ["dear", "cheap"] * 4
    assert 0.02 <= equal_cost.AT_ONCE * prices["dear"] < 0.1
    assert prices["cheap"] < prices["dear"] / 2


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1.0))
def test_seconds_buy_whole_dispatches(seconds, price):
    steps = equal_cost.steps_for(seconds, price)
    assert steps >= equal_cost.AT_ONCE and steps % equal_cost.AT_ONCE == 0
    if steps > equal_cost.AT_ONCE:
        assert abs(steps * price - seconds) <= 0.51 * equal_cost.AT_ONCE * price


# Verdicts


def figures(**given: list[float]) -> list[dict]:
    """Records where each two costs have kinds that change places, but for what is given, by cost and kind."""
    by_cost = {
        "seconds": {"mlp": 1.8, "gru": 2.0},
        "parameters": {"mlp": 2.1, "gru": 2.0, "attention": 1.9},
        "carry": {"attention": 2.2, "lstm": 2.0},
    }
    noise = np.array([0.0, 0.001, -0.001])
    found = []
    for unit in equal_cost.units_of(CONFIG):
        if unit["cost"] == "prices":
            continue
        kind, cost = unit["kind"], unit["cost"]
        mean = by_cost[cost].get(kind, 2.4 if kind == "counts" else 2.05)
        shifted = noise * (KINDS.index(kind) % 3 - 1) + mean
        losses = given.get(f"{cost}_{kind}", [float(each) for each in shifted])
        costs = {"parameters": 4000, "carry": 256, "steps": 20, "cpu_seconds": 1.0, "order": 3, "pruned": 0}
        found.append({**unit, "losses": losses, **costs})
    return found


def in_one_order() -> dict[str, list[float]]:
    """The same losses at every cost, but for the seeds."""
    noise = np.array([0.0, 0.01, -0.01])
    return {
        f"{cost}_{kind}": (2 + 0.3 * number + 0.1 * len(cost) + noise * (number % 2)).tolist()
        for cost in COSTS
        for number, kind in enumerate(KINDS)
    }


@pytest.mark.parametrize(
    "given, verdict",
    [
        ({}, "holds"),
        (in_one_order(), "fails"),
        ({"seconds_mlp": [1.8, 2.3, 2.31]}, "fails"),  # chosen by luck of the first seed
        ({"seconds_mlp": [1.8, 1.8, 2.1]}, "undecided"),
    ],
)
def test_a_figure_against_the_claim_is_noticed(given, verdict):
    summary, checks = equal_cost.judge(figures(**given))
    assert conclude(checks)["verdict"] == verdict
    assert len(checks) == 2 * 3, "at both costs, for each two of them"
    assert summary["made_up_carry_lstm_carry"] == 256 and summary["made_up_seconds_gru_steps"] == 20
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=6))
def test_the_most_reversed_are_those_of_a_loop(pairs):
    one, other = ({str(i): pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    a, b = equal_cost.most_reversed(one, other)
    best = max(min(one[j] - one[i], other[i] - other[j]) for i, j in permutations(one, 2))
    assert a != b and min(one[b] - one[a], other[a] - other[b]) == best


def test_a_training_is_measured(texts):
    """Three dispatches, from two seeds."""
    net, config = equal_sizes.net("gru", "parameters", 8), dataclasses.replace(CONFIG, num_seeds=2)
    found = equal_cost.trained(config, net, texts, 3 * equal_cost.AT_ONCE)
    assert np.shape(found["losses"]) == (2,) and max(found["losses"]) < np.log(len(texts.vocab))
    assert len(set(found["losses"])) == 2 and found["cpu_seconds"] > 0 and found["steps"] == 60


def test_a_measurement_of_all_parts_goes_on(tmp_path):
    """What is measured is made up; a run that is done measures nothing."""
    by_unit = {(each["cost"], each["kind"]): each for each in figures()}
    seen = []

    def made_up(config, unit, texts, prices):
        if unit["cost"] == "prices":
            return {"prices": {"gru": 0.5}}
        seen.append(prices)
        return by_unit[unit["cost"], unit["kind"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.text.loading.load_texts", lambda config: None)
        patch.setattr(equal_cost, "measure_unit", made_up)
        summary = equal_cost.measure(CONFIG, tmp_path)
        patch.setattr(equal_cost, "measure_unit", lambda *_: pytest.fail("measured again"))
        assert equal_cost.measure(CONFIG, tmp_path) == summary
    assert seen == [{"gru": 0.5}] * len(COSTS) * len(KINDS) and summary["verdict"] == "holds"
    is_drawn_on(tmp_path / "equal_cost.png")


@pytest.mark.parametrize(
    "setting, complaint",
    [
        ({"corpora": "a,a"}, "each once"),
        ({"num_seeds": 2}, "num_seeds"),
        ({"num_parameters": 10}, "num_parameters"),
        ({"carry_bytes": 16}, "carry_bytes"),
        ({"num_train_steps": 1}, "num_train_steps"),
        ({"seconds": 0.0}, "seconds"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        equal_cost.check(dataclasses.replace(EqualCostConfig(), **setting))

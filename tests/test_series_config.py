"""Settings of a run on a series: what is refused, what goes together, and that no knob is dead."""

import dataclasses
import math
from functools import partial
from typing import get_args

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config import knobs
from lmseq.config.knobs import from_flat
from lmseq.config.mixers import STACK
from lmseq.config.series import (
    NETS,
    SYNTHETIC,
    SeriesConfig,
    check,
    net_settings,
    num_direct,
    segment_length,
    trains,
)
from lmseq.data.partition import sliding
from lmseq.data.series import least_points, prepare
from lmseq.models import build
from lmseq.models.build import build_series_model, fit_at_once
from lmseq.training import objectives
from tests import mixer_knobs
from tests.test_config import attributes_read, updates_of
from tests.test_objectives import VALUES, loss_of, take
from tests.test_series_models import D, advance, drawn, readout

make = partial(from_flat, kind=SeriesConfig)
SECTIONS = knobs.sections(SeriesConfig)
FIELDS = {f.name: f for section in SECTIONS.values() for f in dataclasses.fields(section)}
SECTION_OF = {f.name: name for name, s in SECTIONS.items() for f in dataclasses.fields(s)}
LEAST = {
    1: "ensemble num_points num_steps batch_size tau hidden_size num_layers num_ahead max_horizon num_paths "
    "host_devices num_train_steps steps_per_dispatch eval_every checkpoint_every keep_checkpoints "
    "accumulate_steps decay_steps",
    -1: "warmup_steps",
    0: "period input_noise seed momentum weight_decay clip_norm target_loss",
}
MOST = dict.fromkeys("batch_size tau hidden_size num_ahead max_horizon".split(), 2**16) | {
    "num_layers": 1000,
    "ensemble": 1000,
}
MOST |= {"num_paths": 10**6, "num_points": 2**31 - 1, "num_steps": 2**31 - 1, "period": 2**31 - 1}
BAD = [
    *({name: least - 1} for least, names in LEAST.items() for name in names.split()),
    *({name: most + 1} for name, most in MOST.items()),
    *({name: x} for name in ("valid_fraction", "test_fraction", "momentum") for x in (1.0, -0.1)),
    *({"sampling_rate": x} for x in (1.01, -0.01)),
    *({"learning_rate": x} for x in (0.0, -1.0)),
    *({name: x} for name in FIELDS if FIELDS[name].type is float for x in (math.nan, math.inf)),
    {"batch_size": 9, "host_devices": 2},
    {"warmup_steps": 50, "num_train_steps": 50},
    *({"head": name, "model": "linear"} for name in ("student", "counts", "quantiles")),
    {"head": "counts", "log": True},
    *({"normalisation": kind, "head": "counts"} for kind in ("last", "mean", "instance")),
    *({"objective": name, "model": "linear"} for name in ("unrolled", "scheduled_sampling", "input_noise")),
]
IDLE = [  # the first is what nothing reads beside the others
    *({name: "a"} for name in ("columns", "time_column", "coefficients")),
    *({name: "a", "series": "nile"} for name in ("columns", "time_column")),
    {"missing": "previous"},
    {"decimal": "comma"},
    {"form": "wide"},
    *({name: "a"} for name in ("id_column", "known_columns", "past_columns", "static_columns")),
    *({name: True, "series": "nile"} for name in ("repair", "calendar")),
    {"num_points": 50, "series": "nile"},
    {"num_points": 50, "series": "load.csv"},
    *({name: 5, "model": kind} for name in ("hidden_size", "num_layers") for kind in ("linear", "mean")),
    *({"activation": "relu", "model": kind} for kind in ("gru", "linear", "drift")),
    *({"residual": True, "model": kind} for kind in ("gru", "linear", "drift")),
    *({"fit": "gradient", "model": kind} for kind in ("mlp", "seasonal")),
    {"head": "normal", "model": "drift"},
    *({"ensemble": 2, "model": kind} for kind in ("linear", "drift")),
    {"objective": "direct", "model": "mean"},
    *(
        {"num_ahead": 4, "objective": name}
        for name in ("teacher_forcing", "scheduled_sampling", "input_noise")
    ),
    *({"sampling_rate": 0.1, "objective": name} for name in ("teacher_forcing", "unrolled", "direct")),
    *({"input_noise": 0.2, "objective": name} for name in ("teacher_forcing", "unrolled", "direct")),
    {"num_paths": 7},
    *({name: 0.1} for name in ("weight_decay", "momentum")),
    {"decay_steps": 7},
    *({"learning_rate": 0.1, "model": kind} for kind in ("linear", "persistence")),
    *({"num_train_steps": 20, "model": kind} for kind in ("linear", "mean")),  # not what is derived from it
    {"warmup_steps": 7, "model": "mean"},
    *mixer_knobs.IDLE,
]


@pytest.mark.parametrize("settings", BAD, ids=str)
def test_settings_out_of_range_or_in_contradiction(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        check(make(settings))


@pytest.mark.parametrize(("settings", "complaint"), mixer_knobs.BAD, ids=str)
def test_mixers_out_of_range_or_in_contradiction(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(make(settings))


@pytest.mark.parametrize(("settings", "complaint"), mixer_knobs.MISFITS, ids=str)
def test_sizes_of_mixers_that_do_not_fit(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        model_of(check(make(settings)))


@pytest.mark.parametrize("settings", IDLE, ids=str)
def test_what_nothing_reads_is_refused(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"^{name}=.* does nothing here: it is read by .* only$"):
        check(make(settings))


FINE = [
    {},
    {"series": "load.csv", "columns": "a,b", "time_column": "t", "missing": "previous", "period": 3},
    {"series": "ar", "coefficients": "0.5", "num_points": 50},
    {"model": "linear", "fit": "gradient", "objective": "unrolled", "num_ahead": 1, "learning_rate": 0.1},
    {"model": "linear", "objective": "direct", "num_ahead": 4, "head": "normal", "num_paths": 7},
    {"residual": True, "activation": "gelu", "objective": "scheduled_sampling", "sampling_rate": 1.0},
    {"model": "mean", "seed": 3},
    {"model": "lstm", "objective": "input_noise", "input_noise": 0.0, "test_fraction": 0.0},
    *mixer_knobs.FINE,
]


@pytest.mark.parametrize("settings", FINE, ids=str)
def test_settings_that_go_together(settings):
    config = make(settings)
    checked = check(config)
    assert (
        knobs.to_flat(checked) == knobs.to_flat(config) | {"warmup_steps": 50} and check(checked) == checked
    )
    assert knobs.from_json(knobs.to_json(config), SeriesConfig) == config


@given(
    num_points=st.integers(24, 10_000),
    chosen=st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(NETS),
            "objective": st.sampled_from(get_args(FIELDS["objective"].type)),
            "optimizer": st.sampled_from(("sgd", "adam", "adamw")),
            "valid_fraction": st.sampled_from((0.0, 0.2)),
            "num_ahead": st.just(2),
        },
    ),
)
def test_what_a_net_gets_suits_its_series_and_what_is_given(num_points, chosen):
    """A segment fits the training part, nothing is idle, and what is given stands."""
    if chosen.get("objective", "direct") not in ("direct", "unrolled"):
        chosen.pop("num_ahead", None)
    settings = knobs.to_flat(make(chosen))
    config = check(make(net_settings(settings, frozenset(chosen), num_points) | chosen))
    train = int(num_points * (1 - config.data.valid_fraction - config.data.test_fraction))
    assert least_points(config, 1) <= train


# No dead knob: what can be seen of each field, under settings that leave it something to do.


def model_of(config: SeriesConfig):
    """The model; a stack that has no layers yet has two."""
    chosen = config.model
    if chosen.model == STACK and not chosen.layers:
        chosen = dataclasses.replace(chosen, layers="gru,gla")
    return build_series_model(chosen, D, num_direct=num_direct(config), period=4)


def parameters_of(config: SeriesConfig):
    """The kind of model, and names and shapes of what is learned."""
    model = model_of(config)
    leaves = jax.tree.leaves_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    return type(model).__name__, [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves]


def prediction_of(config: SeriesConfig):
    """What is predicted after three values: models may share all shapes."""
    model = model_of(config)
    params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    carry = model.init_carry(params, 1)
    for t in range(3):
        carry, prediction = advance(model, params, carry, VALUES[None, t])
    return type(model).__name__, np.asarray(prediction.mean).tolist()


def program_of(config: SeriesConfig):
    """What a pass is computed with; its results are the same."""
    model = model_of(config)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def run(params):
        return model.unroll(params, model.init_carry(params, 1), VALUES[None, :8])

    return str(jax.make_jaxpr(run)(params))


def forecast_of(config: SeriesConfig):
    model = model_of(config)
    params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    return np.asarray(readout(model, params, VALUES[None, :4]).mean).tolist()


def trained_on(config: SeriesConfig):
    """The loss of an objective at the end of the training, and the length of its segments."""
    length, model = segment_length(config), model_of(config)
    params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    objective, last = objectives.make_objective(config), config.train.num_train_steps
    return length, loss_of(objective, model, params, take(length), last)


def plan_of(config: SeriesConfig):
    size = segment_length(config)
    return [leaf.tolist() for leaf in sliding(60, size, config.data.batch_size, config.train.seed, 0)]


def prepared_as(config: SeriesConfig):
    prepared = prepare(config)
    return prepared.facts(), prepared.period


def values_of(config: SeriesConfig):
    return prepare(config).only.values.tolist()


def fitted(config: SeriesConfig):
    """The parameters of a model in closed form."""
    prepared = prepare(config)
    params = fit_at_once(config, prepared, build.model_of(config, prepared))
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(params)]


TINY = {"hidden_size": 6, "num_heads": 3, "tau": 4}
SHORT = {"num_train_steps": 40, "warmup_steps": 2}
STAIRS = SHORT | {"schedule": "staircase", "decay_steps": 1}
# field: (what is seen, settings beside it, its values)
SEEN = {
    "batch_size": (plan_of, {}, (4, 5)),
    "num_steps": (plan_of, {"batch_size": 4}, (4, 5)),
    "tau": (plan_of, {"batch_size": 4}, (2, 3)),
    "seed": (plan_of, {"batch_size": 4}, (0, 1)),
    "model": (prediction_of, TINY, get_args(FIELDS["model"].type)),
    "head": (trained_on, TINY, ("point", "median", "normal", "student", "counts", "quantiles")),
    "ensemble": (parameters_of, TINY, (1, 2, 3)),
    "hidden_size": (parameters_of, {}, (5, 6)),
    "num_layers": (parameters_of, TINY, (1, 2)),
    "activation": (forecast_of, TINY, get_args(FIELDS["activation"].type)),
    "skip": (parameters_of, TINY, (False, True)),
    "residual": (forecast_of, TINY, (False, True)),
    "fit": (trains, {"model": "linear"}, ("least_squares", "gradient")),
    "objective": (
        trained_on,
        TINY | {"num_ahead": 3, "sampling_rate": 1.0},
        get_args(FIELDS["objective"].type),
    ),
    "num_ahead": (trained_on, TINY | {"objective": "unrolled"}, (2, 3)),
    "sampling_rate": (trained_on, TINY | {"objective": "scheduled_sampling"}, (0.0, 1.0)),
    "input_noise": (trained_on, TINY | {"objective": "input_noise"}, (0.0, 0.1, 0.2)),
    "series": (prepared_as, {}, SYNTHETIC),
    "num_points": (prepared_as, {}, (500, 600)),
    "train_points": (prepared_as, {}, (0, 300, 400)),
    "valid_points": (prepared_as, {}, (0, 30, 40)),
    "test_points": (prepared_as, {}, (0, 30, 40)),
    "log": (values_of, {"series": "mackey_glass"}, (False, True)),
    "standardise": (values_of, {}, (False, True)),
    "normalisation": (forecast_of, TINY, get_args(FIELDS["normalisation"].type)),
    "ridge": (fitted, {"model": "linear", "valid_fraction": 0.1}, (0.0, 0.5, -1.0)),
    "refit": (fitted, {"model": "linear", "valid_fraction": 0.1, "ridge": -1.0}, (False, True)),
    "coefficients": (prepared_as, {"series": "ar"}, ("", "0.5", "0.6,0.1")),
    "period": (prepared_as, {}, (0, 5, 7)),
    "valid_fraction": (prepared_as, {}, (0.0, 0.1)),
    "test_fraction": (prepared_as, {}, (0.3, 0.4)),
    "optimizer": (updates_of, SHORT | {"weight_decay": 0.1}, ("sgd", "adam", "adamw", "lion", "muon")),
    "learning_rate": (updates_of, SHORT, (0.01, 0.02)),
    "schedule": (
        updates_of,
        SHORT | {"warmup_steps": 1, "decay_steps": 2, "num_train_steps": 6, "cooldown": 0.6},
        ("constant", "cosine", "inverse", "staircase", "one_cycle", "stable"),
    ),
    "decay_begin": (updates_of, STAIRS, (0, 1)),
    "decay_factor": (updates_of, STAIRS, (0.5, 0.25)),
    "cooldown": (updates_of, SHORT | {"schedule": "stable", "num_train_steps": 6}, (0.2, 0.9)),
    "warmup_steps": (updates_of, SHORT, (0, 1, 2)),
    "num_train_steps": (updates_of, {"warmup_steps": 1}, (4, 40)),
    "decay_steps": (updates_of, SHORT | {"schedule": "inverse", "warmup_steps": 0}, (10, 20)),
    "momentum": (updates_of, SHORT | {"optimizer": "sgd"}, (0.0, 0.5)),
    "weight_decay": (updates_of, SHORT | {"optimizer": "adamw"}, (0.0, 0.5)),
    "clip_norm": (updates_of, SHORT | {"optimizer": "sgd"}, (0.0, 1.0, 2.0)),
    **mixer_knobs.seen(parameters_of, prediction_of, program_of),
}
# Only scripts can show what these do (tests of the scripts do); here, that one of them reads each.
READ_BY_SCRIPTS = {"max_horizon", "origin_step", "num_paths", "refit_every", "host_devices"}
READ_BY_THE_LOOP = set(  # tests/test_config.py, test_watch.py and test_validated.py show them
    "accumulate_steps average average_decay average_patience checkpoint_every eval_every keep_checkpoints "
    "plateau_patience shard steps_per_dispatch target_loss".split()
)
READ_WITH_FILES = set(  # tests of series and panels show these
    "columns time_column decimal missing form id_column repair known_columns past_columns static_columns "
    "calendar test_series channels short".split()
)


@pytest.mark.parametrize("name", SEEN)
def test_no_dead_knob(name):
    """Every value listed gives something else."""
    see, settings, values = SEEN[name]
    assert set(get_args(FIELDS[name].type)) <= set(values)
    seen = [see(make({**settings, name: value})) for value in values]
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i]), values
    assert see(make({**settings, name: values[0]})) == seen[0]  # by itself it does not change


def test_no_knob_is_left_out_and_scripts_read_the_rest():
    assert set(SEEN) | READ_BY_SCRIPTS | READ_BY_THE_LOOP | READ_WITH_FILES == set(FIELDS)
    readers = {
        "experiments": READ_BY_SCRIPTS,
        "lmseq/training": READ_BY_THE_LOOP,
        "lmseq/data": READ_WITH_FILES,
    }
    for folder, names in readers.items():
        read = attributes_read(folder)
        assert {name for name in names if (SECTION_OF[name], name) in read} == names

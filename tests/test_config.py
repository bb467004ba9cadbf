"""Settings: to JSON and back, what is refused, and that no knob is dead."""

import ast
import dataclasses
import math
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config import knobs
from lmseq.config.knobs import from_flat
from lmseq.config.language_model import APART_FROM_PARAMETERS, LanguageModelConfig, ModelKind, check
from lmseq.config.mixers import STACK
from lmseq.data.corpora import RawCorpus
from lmseq.data.tokens import build_vocab, prepare_corpus
from lmseq.models.build import build_model
from lmseq.training.loop import dispatches
from lmseq.training.optimizer import make_optimizer
from lmseq.training.regularised import objective_of
from lmseq.training.sharding import make_mesh
from lmseq.training.state import LoopState, TrainState
from lmseq.training.train_step import StepMetrics
from lmseq.types import NllTotals
from tests import mixer_knobs
from tests.oracles import text_plans

DEFAULT = LanguageModelConfig()
SECTIONS = knobs.sections(LanguageModelConfig)
FIELDS = {f.name: f for section in SECTIONS.values() for f in dataclasses.fields(section)}
SECTION_OF = {f.name: name for name, s in SECTIONS.items() for f in dataclasses.fields(s)}


def values_of(field) -> st.SearchStrategy:
    if get_args(field.type):
        return st.sampled_from(get_args(field.type))
    by_type = {
        bool: st.booleans(),
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),  # which JSON has no words for
        str: st.text(),
    }
    return by_type[field.type]


some_settings = st.fixed_dictionaries({}, optional={name: values_of(f) for name, f in FIELDS.items()})

# To JSON and back


@given(some_settings)
def test_json_round_trip(settings):
    config = from_flat(settings, LanguageModelConfig)
    assert knobs.to_flat(config) == knobs.to_flat(DEFAULT) | settings
    assert knobs.from_json(knobs.to_json(config), LanguageModelConfig) == config


@given(some_settings, some_settings)
def test_differences_are_the_fields_that_differ(old, new):
    left, right = from_flat(old, LanguageModelConfig), from_flat(new, LanguageModelConfig)
    before, after = knobs.to_flat(left), knobs.to_flat(right)
    told = knobs.differences(left, right)
    assert [line.split(":")[0] for line in told] == [n for n in FIELDS if before[n] != after[n]]
    assert all(line.endswith(f" -> {after[line.split(':')[0]]!r}") for line in told)


def test_names_are_unique_over_the_sections():
    """A flag each: no field may hide another."""
    assert len(FIELDS) == sum(len(dataclasses.fields(section)) for section in SECTIONS.values())


def test_every_knob_says_what_it_does():
    for name, field in FIELDS.items():
        assert len(field.metadata["help"]) > 5, name
        assert "\n" not in field.metadata["help"], name
    helps = [field.metadata["help"] for field in FIELDS.values()]
    assert len(set(helps)) == len(helps)


def test_a_config_cannot_change_and_can_be_hashed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.train.seed = 3
    assert hash(DEFAULT) == hash(from_flat({}, LanguageModelConfig))


# What is refused


@pytest.mark.parametrize(
    ("name", "near"),
    [("learning_rat", "learning_rate"), ("hiden_size", "hidden_size"), ("batchsize", "batch_size")],
)
def test_an_unknown_name_is_told_its_neighbour(name, near):
    with pytest.raises(ValueError, match=f"unknown setting '{name}', did you mean '{near}'"):
        from_flat({"seed": 1, name: 1}, LanguageModelConfig)


def test_an_unknown_name_without_neighbours():
    with pytest.raises(ValueError, match=r"unknown setting 'zzz'$"):
        from_flat({"zzz": 1}, LanguageModelConfig)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"seed": 1.0}, "seed to be a whole number, got 1.0"),
        ({"seed": True}, "seed to be a whole number, got True"),
        ({"seed": "1"}, "seed to be a whole number, got '1'"),
        ({"seed": None}, "seed to be a whole number, got None"),
        ({"learning_rate": "0.1"}, "learning_rate to be a number, got '0.1'"),
        ({"learning_rate": True}, "learning_rate to be a number, got True"),
        ({"learning_rate": [0.1]}, "learning_rate to be a number"),
        ({"tie_embeddings": 1}, "tie_embeddings to be true or false, got 1"),
        ({"corpus": 7}, "corpus to be text, got 7"),
        ({"model": "transformer"}, "model to be one of rnn, gru, .*got 'transformer'"),
        ({"optimizer": ["sgd"]}, "optimizer to be one of sgd, adam, adamw"),
    ],
    ids=str,
)
def test_wrong_types_and_choices(settings, complaint):
    with pytest.raises(ValueError, match=f"expected {complaint}"):
        from_flat(settings, LanguageModelConfig)


def test_a_whole_number_is_a_float():
    config = from_flat({"learning_rate": 1}, LanguageModelConfig)
    assert type(config.train.learning_rate) is float and config.train.learning_rate == 1.0


def test_a_number_too_large_for_a_float():
    with pytest.raises(ValueError, match="learning_rate"):
        from_flat({"learning_rate": 10**400}, LanguageModelConfig)


@pytest.mark.parametrize("text", ["", "{", '{"seed": 1', "[]", "3", '"seed"', "null", '{"seed": "x"}'])
def test_json_that_is_no_config(text):
    with pytest.raises(ValueError, match=r"damaged|expected"):
        knobs.from_json(text, LanguageModelConfig)


def test_the_defaults_stand():
    assert knobs.to_flat(check(DEFAULT)) == knobs.to_flat(DEFAULT) | {"warmup_steps": 50}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.type is float])
def test_what_is_not_finite_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        check(from_flat({name: value}, LanguageModelConfig))


BAD = [
    *(
        ({name: 0}, f"{name} of at least 1, got 0")
        for name in (
            "batch_size num_steps min_count hidden_size num_layers tau num_train_steps steps_per_dispatch "
            "eval_every checkpoint_every keep_checkpoints host_devices accumulate_steps decay_steps "
            "horizon_origins horizon_samples"
        ).split()
    ),
    *(
        ({name: -1}, f"{name} of at least 0, got -1")
        for name in "embedding_size seed momentum weight_decay clip_norm target_loss count_tokens".split()
    ),
    ({"warmup_steps": -2}, "warmup_steps of at least -1, got -2"),
    ({"learning_rate": 0.0}, "positive learning_rate, got 0"),
    ({"learning_rate": -0.1}, "positive learning_rate, got -0.1"),
    ({"dropout": 1.0}, r"dropout in \[0, 1\), got 1"),
    ({"dropout": -0.1}, r"dropout in \[0, 1\), got -0.1"),
    ({"momentum": 1.0, "optimizer": "sgd"}, r"momentum in \[0, 1\), got 1"),
    ({"host_devices": 3}, "batch_size that 3 devices divide, got 32: .*host_devices"),
    ({"accumulate_steps": 3}, "that 1 devices, in 3 parts each, divide, got 32: .*accumulate_steps"),
    ({"warmup_steps": 10, "num_train_steps": 10}, "warmup_steps below num_train_steps=10, got 10"),
    ({"tie_embeddings": True, "embedding_size": 256, "model": "mlp"}, "got model mlp"),
    *(
        ({"embedding_size": 8, name: rate}, rf"{name} in \[0, 1\), got {rate}")
        for name in ("embedding_dropout", "input_dropout", "weight_drop", "label_smoothing")
        for rate in (1.0, -0.1)
    ),
    ({"output_dropout": 1.0}, r"output_dropout in \[0, 1\), or -1, got 1"),
    ({"output_dropout": -0.5}, r"output_dropout in \[0, 1\), or -1, got -0.5"),
    ({"activation_penalty": -1.0}, "activation_penalty of at least 0, got -1"),
    ({"temporal_penalty": -1.0}, "temporal_penalty of at least 0, got -1"),
    ({"embedding_dropout": 0.1}, "embedding_dropout=0.1 does nothing here: .*embedding_size"),
    ({"input_dropout": 0.1, "model": "mlp"}, "input_dropout=0.1 does nothing here: .*embedding_size"),
    ({"output_dropout": 0.1, "model": "gla"}, "output_dropout=0.1 does nothing here: .*recurrent models"),
    ({"weight_drop": 0.1, "model": "mingru"}, "weight_drop=0.1 does nothing here: .*rnn, gru and lstm"),
    ({"weight_drop": 0.1, "block": "residual"}, "weight_drop=0.1 does nothing here: .*rnn, gru and lstm"),
    ({"dropout": 0.1, "output_dropout": 0.0}, "dropout=0.1 does nothing here: .*layers below the last"),
    ({"label_smoothing": 0.1, "model": "mlp"}, "label_smoothing=0.1 does nothing here: .*recurrent models"),
    ({"temporal_penalty": 1.0, "model": "mlp"}, "temporal_penalty=1.0 does nothing here: .*recurrent models"),
    ({"random_windows": True, "partition": "random"}, "random_windows=True does nothing here: .*sequential"),
    ({"bpe_vocab_size": 300}, "bpe_vocab_size=300 does nothing here: .*level bpe"),
    ({"min_count": 2, "level": "byte"}, "min_count=2 does nothing here: .*level char or word"),
    ({"min_count": 2, "level": "bpe"}, "min_count=2 does nothing here"),
    ({"tau": 4}, "tau=4 does nothing here: .*models mlp and linear"),
    ({"dropout_kind": "variational"}, "dropout_kind=variational does nothing here"),
    (
        {"dropout_kind": "variational", "dropout": 0.1, "model": "mlp"},
        "dropout_kind=variational does nothing",
    ),
    ({"momentum": 0.9}, "momentum=0.9 does nothing here: .*optimizer sgd"),
    ({"weight_decay": 0.1}, "weight_decay=0.1 does nothing here: .*optimizer adamw, lion or muon"),
    ({"decay_steps": 10}, "decay_steps=10 does nothing here: .*schedule inverse or staircase"),
    ({"decay_begin": 10}, "decay_begin=10 does nothing here: .*schedule staircase"),
    ({"decay_factor": 0.1}, "decay_factor=0.1 does nothing here: .*staircase or plateau_patience"),
    ({"cooldown": 0.1}, "cooldown=0.1 does nothing here: .*schedule stable"),
    ({"average_decay": 0.9}, "average_decay=0.9 does nothing here: .*average exponential"),
    ({"average_patience": 3}, "average_patience=3 does nothing here: .*average triggered"),
    ({"init_optimizer": True}, "init_optimizer=True does nothing here: .*init_from"),
    ({"num_epochs": -0.5}, "num_epochs of at least 0, got -0.5"),
    ({"model": "gla", "embedding_size": 8}, "embedding is as wide as its layers, got embedding_size 8"),
    *mixer_knobs.BAD,
    *((idle, f"^{next(iter(idle))}=.* does nothing here: it is read by") for idle in mixer_knobs.IDLE),
]


@pytest.mark.parametrize(("settings", "complaint"), BAD, ids=[str(settings) for settings, _ in BAD])
def test_contradictions(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(from_flat(settings, LanguageModelConfig))


@pytest.mark.parametrize(("settings", "complaint"), mixer_knobs.MISFITS, ids=str)
def test_sizes_of_mixers_that_do_not_fit(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_model(check(from_flat(settings, LanguageModelConfig)).model, 7)


@pytest.mark.parametrize(
    "settings",
    [
        {"level": "bpe", "bpe_vocab_size": 300},
        {"level": "word", "min_count": 2},
        {"model": "mlp", "tau": 4, "dropout": 0.1},
        {"dropout": 0.1, "dropout_kind": "variational"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"schedule": "inverse", "decay_steps": 10, "warmup_steps": 10, "num_train_steps": 5},
        {"tie_embeddings": True, "embedding_size": 64, "hidden_size": 64},
        {"tie_embeddings": True, "embedding_size": 32, "hidden_size": 64, "random_windows": True},
        {
            "model": "lstm",
            "num_layers": 3,
            "embedding_size": 64,
            "embedding_dropout": 0.1,
            "input_dropout": 0.4,
            "dropout": 0.25,
            "output_dropout": 0.4,
            "weight_drop": 0.5,
            "dropout_kind": "variational",
            "activation_penalty": 2.0,
            "temporal_penalty": 1.0,
            "label_smoothing": 0.1,
        },
        {"output_dropout": 0.3, "dropout_kind": "variational"},
        {"model": "gla", "embedding_dropout": 0.1, "input_dropout": 0.1, "temporal_penalty": 1.0},
        {"host_devices": 8},
        {"host_devices": 2, "accumulate_steps": 4, "shard": "params", "backend": "native"},
        {"clip_norm": 0.0, "warmup_steps": 0, "target_loss": 1.5, "test_fraction": 0.0},
        *mixer_knobs.FINE,
    ],
    ids=str,
)
def test_settings_that_go_together(settings):
    checked = check(from_flat(settings, LanguageModelConfig))
    assert knobs.to_flat(checked) == knobs.to_flat(DEFAULT) | {"warmup_steps": 50} | settings
    assert check(checked) == checked


@pytest.mark.parametrize(
    ("settings", "derived"),
    [
        ({"num_train_steps": 51}, {"warmup_steps": 50}),
        ({"num_train_steps": 50}, {"warmup_steps": 5}),
        ({"num_train_steps": 20}, {"warmup_steps": 2}),
        ({"num_train_steps": 1}, {"warmup_steps": 0}),
        ({"num_train_steps": 1, "schedule": "constant"}, {"warmup_steps": 50}),
        ({"tie_embeddings": True, "hidden_size": 64}, {"embedding_size": 64}),
        ({"layers": "gla*2,attention"}, {"model": "stack"}),
    ],
    ids=str,
)
def test_settings_that_others_decide(settings, derived):
    checked = check(from_flat(settings, LanguageModelConfig))
    assert derived.items() <= knobs.to_flat(checked).items()
    assert derived.get("warmup_steps", 50) == checked.train.warmup_steps


# No dead knob: what can be seen of each field, under settings that leave it something to do.

TEXT = "The time machine, by H G Wells. " * 12 + "It's rare; so is a zebra (or a quokka)! " + "the end. " * 20
TOKENS = np.random.default_rng(0).integers(0, 7, 41).astype(np.int32)


def text_of(config: LanguageModelConfig):
    data = config.data
    corpus = prepare_corpus(
        RawCorpus("text", {"all": TEXT}),
        normalize=data.normalize,
        valid_fraction=data.valid_fraction,
        test_fraction=data.test_fraction,
    )
    vocab = build_vocab(
        corpus.train,
        level=data.level,
        normalize=data.normalize,
        min_count=data.min_count,
        bpe_vocab_size=data.bpe_vocab_size,
    )
    return corpus[1:], vocab


def plan_of(config: LanguageModelConfig):
    return [leaf.tolist() for leaf in text_plans(config, 300).slice(0, 12)]


def small(**settings):
    return {"hidden_size": 6, "embedding_size": 6, "num_heads": 3, **settings}


def model_of(config: LanguageModelConfig):
    """The model; a stack that has no layers yet has two."""
    chosen = config.model
    if chosen.model == STACK and not chosen.layers:
        chosen = dataclasses.replace(chosen, layers="gru,gla")
    return build_model(chosen, 7)


def parameters_of(config: LanguageModelConfig):
    """Names and shapes of what is learned."""
    shapes = jax.eval_shape(model_of(config).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.shape, shapes)


def drawn(config: LanguageModelConfig):
    """The model with parameters drawn here, which compiles nothing."""
    model, rng = model_of(config), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def prediction_of(config: LanguageModelConfig):
    """What the model predicts after three tokens: cells may share all shapes."""
    model, params = drawn(config)
    carry = model.init_carry(params, 1)
    for token in TOKENS[:3]:
        carry = model.update(params, carry, jnp.asarray([token]))
    return np.asarray(model.readout(params, carry)).tolist()


def training_pass_of(config: LanguageModelConfig):
    """Log-probabilities under one key."""
    model, params = drawn(config)
    xs = jnp.asarray(TOKENS[None, :4])

    @jax.jit
    def run(key):
        return model.token_log_probs(params, model.init_carry(params, 1), xs, xs, training=True, key=key)[1]

    return run(jax.random.key(0)).tolist()


def loops_of(config: LanguageModelConfig):
    """What a training pass is computed with; its results are the same."""
    model = model_of(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    xs = jnp.asarray(TOKENS[None, :8])

    def run(params, key):
        return model.token_log_probs(params, model.init_carry(params, 1), xs, xs, training=True, key=key)[1]

    return str(jax.make_jaxpr(run)(params, jax.random.key(0)))


def objective_in(config: LanguageModelConfig):
    """What is minimised; its formulas have tests of their own."""
    return repr(objective_of(config.loss))


def initial_parameters_of(config: LanguageModelConfig):
    """The parameters that a training begins with."""
    return jax.tree.map(np.ndarray.tolist, jax.device_get(model_of(config).init(jax.random.key(0))))


def updates_of(config: LanguageModelConfig):
    """Where a parameter goes under three large gradients."""
    optimizer, params = make_optimizer(config.train), {"kernel": jnp.array([[1.0, -2.0], [0.5, 1.5]])}
    state, history = optimizer.init(params), []
    for scale in (3.0, -1.0, 2.0, 1.0, -2.0):
        grad = {"kernel": scale * jnp.array([[1.0, 0.5], [-0.3, 0.2]])}
        updates, state = optimizer.update(grad, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
        history.append(params["kernel"].tolist())
    return history


def cuts_of(config: LanguageModelConfig):
    """The steps of each dispatch, by a dispatch that only counts."""

    def count(loop_state, tokens, plan, key):
        num_rows = len(plan.resets)
        metrics = StepMetrics(NllTotals(np.ones(num_rows), np.ones(num_rows, np.int32)), np.ones(num_rows))
        state = loop_state.state._replace(step=loop_state.state.step + num_rows)
        return LoopState(state, loop_state.carry), metrics

    begin = LoopState(TrainState(jnp.zeros((), jnp.int32), {}, ()), ())
    mesh = make_mesh(jax.devices()[:1])
    ends = dispatches(
        config.train, text_plans(config, 300), count, mesh, begin, jnp.arange(300), jax.random.key(0)
    )
    return [end.step for end in ends]


def devices_of(config: LanguageModelConfig):
    """Whether the batch can be shared: `check` divides by them before anything starts."""
    try:
        check(config)
    except ValueError as error:
        return str(error)
    return "fine"


SHORT = {
    "num_train_steps": 40,
    "warmup_steps": 2,
    "steps_per_dispatch": 9,
    "eval_every": 50,
    "checkpoint_every": 50,
}
NOISE = ("embedding_dropout", "input_dropout", "weight_drop")
LOSS = ("activation_penalty", "temporal_penalty", "label_smoothing")
STAIRS = SHORT | {"schedule": "staircase", "decay_steps": 1}
BATCH = {"batch_size": 4, "num_steps": 8}
# field: (what is seen, settings beside it, its values)
SEEN = {
    "level": (text_of, {}, ("byte", "char", "word", "bpe")),
    "normalize": (text_of, {}, ("none", "letters")),
    "valid_fraction": (text_of, {}, (0.05, 0.2)),
    "test_fraction": (text_of, {}, (0.05, 0.0)),
    "min_count": (text_of, {}, (1, 2)),
    "bpe_vocab_size": (text_of, {"level": "bpe"}, (260, 270)),
    "partition": (plan_of, BATCH, ("random", "sequential")),
    "batch_size": (plan_of, BATCH, (4, 5)),
    "num_steps": (plan_of, BATCH, (8, 9)),
    "seed": (plan_of, BATCH, (0, 1)),
    "model": (prediction_of, small(), get_args(ModelKind)),
    "hidden_size": (parameters_of, small(), (6, 7)),
    "num_layers": (parameters_of, small(), (1, 2)),
    "last_size": (parameters_of, small(num_layers=2), (0, 5, 3)),
    "embedding_size": (parameters_of, small(), (0, 6, 5)),
    "init_range": (initial_parameters_of, small(), (0.0, 0.1, 0.2)),
    "tie_embeddings": (parameters_of, small(), (False, True)),
    **{name: (training_pass_of, small(model="rnn"), (0.0, 0.5, 0.3)) for name in NOISE},
    "output_dropout": (training_pass_of, small(model="rnn", dropout=0.3), (-1.0, 0.0, 0.5)),
    "sampled_softmax": (training_pass_of, small(model="rnn"), (0, 2, 3)),
    "ngram_order": (prediction_of, small(model="rnn"), (0, 2, 3)),
    "ngram_rows": (parameters_of, small(ngram_order=3), (40, 50)),
    "ngram_size": (parameters_of, small(ngram_order=3), (3, 4)),
    "ngram_dropout": (training_pass_of, small(model="rnn", ngram_order=3, init_range=0.5), (0.0, 0.5, 0.3)),
    **{name: (objective_in, {}, (0.0, 0.1, 0.2)) for name in LOSS},
    "random_windows": (plan_of, BATCH, (False, True)),
    "tau": (parameters_of, small(model="mlp"), (2, 3)),
    "dropout": (training_pass_of, small(model="mlp"), (0.0, 0.5, 0.3)),
    "dropout_kind": (training_pass_of, small(model="rnn", dropout=0.5), ("fresh", "variational")),
    "precision": (loops_of, small(model="rnn"), ("float32", "tf32", "bfloat16")),
    "recompute_steps": (loops_of, small(model="rnn"), (0, 2, 3)),
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
    "decay_steps": (updates_of, SHORT | {"schedule": "inverse", "warmup_steps": 0}, (10, 20)),
    "momentum": (updates_of, SHORT | {"optimizer": "sgd"}, (0.0, 0.5)),
    "weight_decay": (updates_of, SHORT | {"optimizer": "adamw"}, (0.0, 0.5)),
    "clip_norm": (updates_of, SHORT | {"optimizer": "sgd"}, (0.0, 1.0, 2.0)),
    "num_train_steps": (cuts_of, SHORT | BATCH, (40, 41)),
    "steps_per_dispatch": (cuts_of, SHORT | BATCH, (9, 10)),
    "eval_every": (cuts_of, SHORT | BATCH, (50, 7)),
    "checkpoint_every": (cuts_of, SHORT | BATCH, (50, 7)),
    "host_devices": (devices_of, {}, (1, 3)),
    "accumulate_steps": (devices_of, {}, (1, 3)),
    **mixer_knobs.seen(parameters_of, prediction_of, loops_of),
}
# Only scripts can show what these do (tests of the scripts do); here, that one of them reads each.
READ_BY_SCRIPTS = {
    "backend",
    "corpus",
    "count_tokens",
    "horizon_origins",
    "horizon_samples",
    "host_devices",
    "init_from",
    "init_optimizer",
    "num_epochs",
    "score_tokens",
}


@pytest.mark.parametrize("name", SEEN)
def test_no_dead_knob(name):
    """Every value listed gives something else."""
    see, settings, values = SEEN[name]
    seen = [see(from_flat({**settings, name: value}, LanguageModelConfig)) for value in values]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert one != other, values
    assert (
        see(from_flat({**settings, name: values[0]}, LanguageModelConfig)) == seen[0]
    )  # by itself it does not change


def test_seen_values_are_all_choices():
    for name, (_, _, values) in SEEN.items():
        # No text has level ids: a store says of itself that it has it.
        assert set(get_args(FIELDS[name].type)) - {"ids"} <= set(values), name


READ_BY_TRAINING = {
    "average",
    "average_decay",
    "average_patience",
    "plateau_patience",
    "keep_checkpoints",
    "target_loss",
    "shard",
}


def attributes_read(folder: str) -> set[tuple[str, str]]:
    """(section, field) for each `data.x`, `config.train.x`, `self.y.model.x` that is read in a folder."""
    found = set()
    for path in (Path(__file__).resolve().parent.parent / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                section = (
                    owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "").removeprefix("_")
                )
                found.add((section, node.attr))
    return found


def test_scripts_read_the_rest():
    read = attributes_read("experiments")
    assert {name for name in READ_BY_SCRIPTS if (SECTION_OF[name], name) in read} == READ_BY_SCRIPTS
    read = attributes_read("lmseq/training")
    assert {name for name in READ_BY_TRAINING if (SECTION_OF[name], name) in read} == READ_BY_TRAINING


HIDDEN = (training_pass_of, loops_of, initial_parameters_of)


def test_what_parameters_do_not_depend_on():
    """Settings of a model that only its beginning and training show, and the loops that compute it."""
    of_model = {name for name, section in SECTION_OF.items() if section == "model"}
    shown = {name for name in of_model & set(SEEN) if SEEN[name][0] in HIDDEN}
    assert shown | (of_model & READ_BY_SCRIPTS) == set(APART_FROM_PARAMETERS)


def test_no_knob_is_left_out():
    """A new field needs a line in SEEN, or in a READ_BY set where only scripts or training can show it."""
    assert set(SEEN) | READ_BY_SCRIPTS | READ_BY_TRAINING == set(FIELDS)

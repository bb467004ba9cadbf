"""Programs kept on disk: found again by what they are made of, and never where that is not known in full."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmseq import programs, scoring
from lmseq.config.language_model import ModelConfig
from lmseq.models.build import build_model
from lmseq.programs import Program
from lmseq.training.train_step import make_dispatch
from tests.scripts import SMALL

MODEL = build_model(ModelConfig(model="gru", hidden_size=8), 5)
TOKENS = jnp.arange(40) % 5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    programs.keep_in(tmp_path)
    yield tmp_path
    programs.keep_in(None)


def scores(num_steps=7):
    """What a new process would make: nothing is in memory."""
    found = Program(scoring.score_strips.__wrapped__, static_argnums=(0, 5))
    starts, lengths = jnp.array([[0], [7]]), jnp.full((2, 1), 7)
    return found, (MODEL, MODEL.init(jax.random.key(0)), TOKENS, starts, lengths, num_steps)


class Jitted:
    """Stands for what `jax.jit` returned, and is not to be traced."""

    def lower(self, *_):
        raise AssertionError("it is traced anew")

    __call__ = lower


def read(found, arguments):
    found._jit = Jitted()
    return found(*arguments)


def test_a_program_is_found_again(folder):
    found, arguments = scores()
    expected = found._jit(*arguments)
    made = found(*arguments)
    (path,) = folder.iterdir()
    assert path.suffix == ".program"
    again = read(*scores())
    for each in (made, again):
        jax.tree.map(np.testing.assert_array_equal, each, expected)
    assert list(folder.iterdir()) == [path]


def test_what_it_is_made_of_names_it(folder, monkeypatch):
    """Static arguments, shapes, settings of JAX, source, loops: one of them other, another program."""
    found, arguments = scores()
    found(*arguments)
    found(*arguments[:2], TOKENS[:39], *arguments[3:])
    found(*arguments[:-1], 6)
    wider = build_model(ModelConfig(model="gru", hidden_size=9), 5)
    found(wider, wider.init(jax.random.key(0)), *arguments[2:])
    assert len(list(folder.iterdir())) == 4
    monkeypatch.setattr(programs._Kept, "source", b"changed")
    with pytest.raises(AssertionError, match="traced anew"):
        read(*scores())
    monkeypatch.undo()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    read(*scores())
    with jax.debug_nans(True), pytest.raises(AssertionError, match="traced anew"):
        read(*scores())
    monkeypatch.setattr(programs.library, "num_threads", lambda: 77)
    with pytest.raises(AssertionError, match="traced anew"):
        read(*scores())


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b[:40] + b"x" + b[41:]])
def test_a_damaged_file_is_made_anew(folder, damage):
    found, arguments = scores()
    expected = found(*arguments)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    jax.tree.map(np.testing.assert_array_equal, scores()[0](*arguments), expected)
    read(*scores())


def double(x):
    return 2 * x


@dataclass(frozen=True)
class Scale:
    by: float


def test_functions_and_classes_without_a_version_are_not_kept(folder):
    """A notebook's function may be another one tomorrow under the same name."""
    made_here = Program(double)
    inside = Program(scoring.score_strips.__wrapped__, static_argnums=(0, 5), made_of=partial(double, 1))
    of_a_class = Program(scoring.score_strips.__wrapped__, static_argnums=(0, 5), made_of=Scale(2.0))
    assert made_here(jnp.ones(3)).tolist() == [2.0] * 3
    closure = Program(make_dispatch(MODEL, optax.sgd(0.1), 7)._jit.__wrapped__)
    assert closure._path((), None, (), ()) is None
    for found in (inside, of_a_class):
        found(*scores()[1])
    assert not list(folder.iterdir())


def test_equal_models_have_one_name(folder):
    build_model(ModelConfig(model="lstm", hidden_size=3), 4)  # Flax numbers its modules
    twin = build_model(ModelConfig(model="gru", hidden_size=8), 5)
    assert programs._pickled(MODEL) == programs._pickled(twin)
    assert programs._pickled(MODEL) != programs._pickled(
        build_model(ModelConfig(model="lstm", hidden_size=8), 5)
    )


def test_inside_another_program_and_of_several_devices_it_is_jits(folder, monkeypatch):
    found, arguments = scores()
    inner = partial(found, MODEL)

    def outer(*given):
        return inner(*given, 7)

    traced = jax.jit(outer)(*arguments[1:-1])
    jax.tree.map(np.testing.assert_array_equal, traced, found._jit(*arguments))
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    found(*arguments)
    assert not list(folder.iterdir())


def test_without_a_place_to_write_to_it_works(folder, monkeypatch):
    (folder / "file").touch()
    programs.keep_in(folder / "file" / "absent")
    found, arguments = scores()
    jax.tree.map(np.testing.assert_array_equal, found(*arguments), found._jit(*arguments))


def test_settings_of_jax_are_heeded_within_a_process(folder):
    found, arguments = scores()
    found(*arguments)
    with jax.default_matmul_precision("bfloat16"):
        found(*arguments)
    assert len(list(folder.iterdir())) == len(found._found) == 2


def test_two_threads_keep_what_can_be_read(folder):
    jobs = [scores(num_steps) for num_steps in (3, 4, 5, 6)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda job: job[0](*job[1]), jobs))
    assert jax.config.jax_persistent_cache_min_compile_time_secs < 1e9
    for num_steps, expected in zip((3, 4, 5, 6), made, strict=True):
        jax.tree.map(np.testing.assert_array_equal, read(*scores(num_steps)), expected)


def test_a_source_that_changed_keeps_nothing(folder, monkeypatch):
    monkeypatch.setattr(programs, "_source", lambda: b"changed since")
    found, arguments = scores()
    found(*arguments)
    assert not list(folder.iterdir())


def test_old_files_go(folder):
    for name, days in (("old.program", 31), ("new.program", 29), ("old.other", 31)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - days * 86400,) * 2)
    programs.keep_in(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["new.program", "old.other"]


def test_what_one_process_kept_another_one_runs(processes, tmp_path):
    """Of a training whose weights are drawn with LAPACK; JAX's own programs are kept beside."""
    (tmp_path / "text").write_text("a rose is a rose is a rose.\n" * 100)
    env = processes.env | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "kept")}
    flags = [*SMALL, f"--corpus={tmp_path / 'text'}", "--model=gru", "--num_train_steps=15"]
    found, kept = [], []
    for name in ("first", "second"):
        done = processes.run("train_lm", *flags, f"--workdir={tmp_path / name}", env=env)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
        kept.append({path: path.read_bytes() for path in (tmp_path / "kept").glob("*.program")})
    assert len(kept[0]) >= 5 and kept[0] == kept[1]
    for name in ("params_digest", "valid_loss", "test_loss", "loss_at_4"):
        assert found[0][name] == found[1][name]

"""What `experiments.frame.start` sets up before JAX's first use, seen from processes of their own."""

import os
import signal
import sys

import pytest

import experiments
from tests.scripts import refusal

WIDE = """
import sys
from experiments.frame.start import prepare_jax
prepare_jax(keep_programs="--nocompilation_cache" not in sys.argv)
import jax, jax.numpy as jnp, numpy as np
from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import Plan
from lmseq.models.build import build_model
from lmseq.training import optimizer, state, train_step
model = build_model(ModelConfig(model="lstm", hidden_size=512, num_layers=2, embedding_size=512), 65)
updates = optimizer.make_optimizer(TrainConfig())
training = state.init_training_jit(jax.random.key(0), model, updates, 64)
dispatch = train_step.make_dispatch(model, updates, 32)
plan = Plan(np.zeros((3, 64), np.int32), np.full((3, 64), 32, np.int32), np.zeros(3, bool))
_, metrics = dispatch(training, jnp.arange(33) % 65, plan, jax.random.key(1))
print(np.isfinite(metrics.totals.nll).all(), jax.config.jax_compilation_cache_dir)
"""


def test_two_wide_layers_do_not_wait_for_ever(processes):
    """As the scheduler of jax 0.10 makes them do on a CPU, unless it is switched off."""
    done = processes.execute([sys.executable, "-c", WIDE])
    assert done.stdout.startswith("True"), done.stderr


SHOWN = """
import sys
from experiments.frame.start import prepare_jax
prepare_jax(keep_programs="--nocompilation_cache" not in sys.argv)
import jax
print(jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir)
print(jax.jit(lambda x: x + 1)(1))
"""


def test_programs_are_kept_unless_told_otherwise(processes, tmp_path):
    env = {k: v for k, v in processes.env.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    env["XDG_CACHE_HOME"] = str(tmp_path)
    off = processes.execute([sys.executable, "-c", SHOWN, "--nocompilation_cache"], env=env)
    assert off.stdout.splitlines()[0] == "False None", off.stderr
    assert not list(tmp_path.iterdir())
    on = processes.execute([sys.executable, "-c", SHOWN], env=env)
    assert on.stdout.splitlines()[0] == f"True {tmp_path / 'lmseq' / 'programs'}", on.stderr
    assert list((tmp_path / "lmseq" / "programs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["python", "-m", "experiments.train_lm", "--help"], True),
        (["python", "-W", "error", "-m", "benchmarks.startup"], True),
        (["python", "-m", "pytest", "experiments.train_lm"], False),
        (["python", "-c", "import experiments"], False),
        (["python", "-m"], False),
        (["python"], False),
    ],
)
def test_only_scripts_take_signals(arguments, expected):
    assert experiments._is_started(arguments) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_has_begun_is_one_word(tmp_path, processes, number):
    """The script waits for ever for its text, which is a pipe that nobody writes to."""
    text, workdir = tmp_path / "text.txt", tmp_path / "run"
    os.mkfifo(text)
    process = processes.start("train_ngram", f"--corpus={text}", "--level=word", f"--workdir={workdir}")
    with text.open("wb"):  # which waits until the script has opened it too
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "interrupted\n")
    assert not workdir.exists()


MEANING = """
from experiments.frame.start import prepare_jax
prepare_jax()
import jax, jax.numpy as jnp
print(jnp.zeros(3, float).dtype, jax.random.key_data(jax.random.key(7)).tolist())
"""


def test_settings_of_jax_that_change_what_a_program_means_are_not_heeded(processes):
    env = processes.env | {
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_RANDOM_SEED_OFFSET": "3",
    }
    done = processes.execute([sys.executable, "-c", MEANING], env=env)
    assert done.stdout == "float32 [0, 7]\n", done.stderr
    assert sorted(line.split()[0] for line in done.stderr.splitlines()) == [
        "JAX_DEFAULT_PRNG_IMPL",
        "JAX_ENABLE_X64",
        "JAX_RANDOM_SEED_OFFSET",
    ]


@pytest.mark.parametrize("platform", ["cuda", "banana"])
def test_a_device_that_is_not_there_is_one_line(processes, tmp_path, platform):
    run = tmp_path / "run"
    run.mkdir()
    env = processes.env | {"JAX_PLATFORMS": platform}
    _, last = refusal(processes.run("score_text", f"--run={run}", "--text=a", env=env))
    assert f"JAX_PLATFORMS={platform}" in last and "say cpu" in last


def test_a_stream_that_cannot_show_a_character_shows_its_escape(processes, tmp_path):
    arguments = [f"--run={tmp_path / 'thé'}", "--text=a"]
    done = processes.run("score_text", *arguments, env=processes.env | {"PYTHONIOENCODING": "ascii"})
    assert "th\\xe9" in refusal(done)[1]


CLOSED = "exec {python} -m experiments.score_text --run={run} --text=a {closed}"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams(processes, tmp_path, closed):
    """The status is that of the mistake, and nothing is said where it cannot be heard."""
    line = CLOSED.format(python=sys.executable, run=tmp_path / "none", closed=closed)
    done = processes.execute(["sh", "-c", line])
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") == ("2>" not in closed)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_what_succeeds_does_so_with_closed_streams(processes, closed):
    done = processes.execute(["sh", "-c", f"exec {sys.executable} -m experiments.train_lm --help {closed}"])
    assert done.returncode == 0 and not done.stderr and bool(done.stdout) == (closed == "2>&-")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_a_full_place_for_results_is_one_line(processes):
    done = processes.execute(
        ["sh", "-c", f"exec {sys.executable} -m experiments.train_lm --help > /dev/full"]
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "make room" in done.stderr

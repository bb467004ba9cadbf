"""Models taken away: read where neither lmseq nor Flax can be imported, they say what the run says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from experiments.export import take_series, take_text, write
from experiments.series import saved
from lmseq import portable, rollout, runs, scoring
from lmseq.config import knobs
from lmseq.config.language_model import ModelConfig
from lmseq.config.mixture import MixtureConfig
from lmseq.config.text import TextConfig
from lmseq.data.texts import load_texts
from lmseq.data.tokens import Vocab, build_vocab
from lmseq.models.build import build_model
from lmseq.models.dynamic import Dynamic, with_rates
from lmseq.models.following import Following, with_share
from lmseq.models.mixture import Mixture, MixtureParams, with_cache
from lmseq.models.ngram import fit_counts
from lmseq.runs import Run
from lmseq.training.checkpoint import digest
from lmseq.types import Covariates
from tests.scripts import ROOT, SMALL, refusal

PROSE = "the tide is low and the boats are out\nthe boats are in and the tide is high\n" * 60
PAGE = (ROOT / "docs/guides/taking_away.md").read_text(encoding="utf-8")
LINES, ENCODE, SERIES, RECURSION = re.findall(r"^```py\n(.*?)^```", PAGE, re.M | re.S)
# What a reader runs: the page's code, with another folder and another text. Beside it a few rows at once.
READER = """
import contextlib, io, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lmseq", "experiments", "flax", "optax", "orbax"):
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Refuse())
for name in ("lmseq", "flax"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
lines, encode, series, cases = json.load(sys.stdin)
found = {}
for folder, text in cases:
    space = {"text": text}
    if not text:
        with contextlib.redirect_stdout(io.StringIO()):
            for code in series:
                exec(code.replace("exported/", folder + "/"), space)
                found.setdefault(folder, []).append(space["np"].asarray(space["forecast"]).tolist())
        continue
    exec("import numpy as np\\n" + encode, space)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(lines.replace("exported/", folder + "/"), space)
    init_carry, update, readout = (space[name] for name in ("init_carry", "update", "readout"))
    work = lambda params, xs: readout(params, update(params, init_carry(params, xs), xs))
    rows = space["jax"].jit(work)(space["params"], space["ids"][:3]).tolist()
    nats = float(printed.getvalue().split(" nats")[0])
    found[folder] = {"nats": nats, "rows": rows, "drawn": space["drawn"].tolist()}
print(json.dumps([found, sorted(name for name in sys.modules if "." not in name)]))
"""


def read_elsewhere(cases: list[tuple[Path, str]]) -> dict[str, dict]:
    """What the page's code says of each folder and text, in a process without this project.

    Without a text it is that of series.
    """
    lines = LINES.replace("200)", "20)")
    start = 'ids = np.array([vocab["tokens"].index(character) for character in "The object "], np.int32)'
    assert lines.count(start) == 1
    lines = lines.replace(start, "ids = encode(vocab, text)")
    # Bytes and bpe have no list of tokens to join.
    lines = lines.replace('print("".join(vocab["tokens"][i] for i in drawn))', "print(drawn)")
    told = json.dumps([lines, ENCODE, [SERIES, RECURSION], [(str(folder), text) for folder, text in cases]])
    command = [sys.executable, "-I", "-c", READER]
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found, modules = json.loads(done.stdout)
    assert not {"lmseq", "experiments", "flax"} & set(modules)
    return found


def net(vocab: Vocab, **settings) -> tuple:
    """A net with random parameters, which say more than trained ones of where two programs differ."""
    model = build_model(ModelConfig(hidden_size=8, backend="scan", **settings), len(vocab))
    rng, like = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree.map(lambda leaf: jnp.float32(rng.uniform(-0.5, 0.5, leaf.shape)), like)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Run]:
    """Models of every kind, over vocabularies of every level."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(PROSE, encoding="utf-8")
    words = load_texts(TextConfig(corpus=str(path), level="word"))
    vocabs = {level: build_vocab(PROSE, level=level, bpe_vocab_size=280) for level in ("byte", "char", "bpe")}
    vocabs |= {"letters": build_vocab(PROSE, level="char", normalize="letters"), "word": words.vocab}
    vocabs["ids"] = Vocab("ids", tokens=tuple(str(i) for i in range(600)))
    counts = fit_counts(words, 4)[:2]
    gru = net(vocabs["word"], model="gru", num_layers=1)
    parts = [
        with_cache(*gru, 5, len(words.vocab), neural=True),
        with_cache(*counts, 7, len(words.vocab), neural=False),
    ]
    models, params = zip(*parts, strict=True)
    mixture = Mixture(models), MixtureParams(jnp.log(jnp.array([0.4, 0.6])), params)
    rnn = net(vocabs["char"], model="rnn", num_layers=1)
    scale = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), rnn[1])
    stack = {"model": "stack", "block": "residual", "num_heads": 2, "window": 4}
    made = {
        "lstm": ("ids", net(vocabs["ids"], model="lstm", embedding_size=8, tie_embeddings=True)),
        "mingru": ("byte", net(vocabs["byte"], model="mingru")),
        "mlp": ("letters", net(vocabs["letters"], model="mlp", tau=3)),
        "linear": ("bpe", net(vocabs["bpe"], model="linear")),
        "stack": ("char", net(vocabs["char"], layers="attention,gated_deltanet", **stack)),
        "following": ("word", with_share(*mixture, 0.1)),
        "dynamic": ("char", with_rates(*rnn, 4, 0.1, 0.01, scale)),
    }
    assert isinstance(made["following"][1][0], Following) and isinstance(made["dynamic"][1][0], Dynamic)
    return {name: Run(None, vocabs[level], *part) for name, (level, part) in made.items()}


def text_of(run: Run) -> str:
    return "5 599 0 5 7 320" if run.vocab.level == "ids" else "the boats are low\nand out é"


RUNS = {"net:10": "train_lm", "counts": "train_ngram", "mixed": "mix_models"}


@pytest.fixture(scope="module")
def exported(kinds, scripts, made, tmp_path_factory) -> Path:
    """The folders of all kinds, and of runs."""
    root = tmp_path_factory.mktemp("exported")
    for name, run in kinds.items():
        (root / name).mkdir()
        write(root / name, take_text(run), name)
    for name in (*RUNS, "series"):
        done = scripts.attempt("export", f"--run={made / name}", f"--out={root / name}")
        assert done.returncode == 0, done.stderr
        (root / name / "said").write_text(done.stdout)
    return root


@pytest.fixture(scope="module")
def elsewhere(kinds, exported) -> dict[str, dict]:
    """What the exported models say, by the name of the folder."""
    cases = [(exported / name, text_of(run)) for name, run in kinds.items()]
    cases += [(exported / name, TEXT if name in RUNS else "") for name in (*RUNS, "series")]
    return {Path(folder).name: found for folder, found in read_elsewhere(cases).items()}


TEXT = "the tide is out"  # of the runs
KINDS = "lstm mingru mlp linear stack following dynamic".split()


@pytest.mark.parametrize("name", KINDS)
def test_the_page_s_code_gives_the_run_s_own_nats(kinds, elsewhere, name):
    run = kinds[name]
    ids = run.vocab.encode(text_of(run))
    expected = np.asarray(scoring.score(run.model, run.params, ids), np.float64).sum()
    assert elsewhere[name]["nats"] == pytest.approx(expected, rel=1e-6)
    drawn = np.array(elsewhere[name]["drawn"])
    assert drawn.shape == (20,) and 0 <= drawn.min() and drawn.max() < len(run.vocab)


@pytest.mark.parametrize("name", KINDS)
def test_several_rows(kinds, elsewhere, name):
    run = kinds[name]
    xs = jnp.asarray(run.vocab.encode(text_of(run))[:3])

    @jax.jit
    def ahead(params):
        return run.model.readout(params, run.model.update(params, run.model.init_carry(params, 3), xs))

    rows = elsewhere[name]["rows"]
    assert np.shape(rows) == (3, len(run.vocab)) and not np.allclose(rows[0], rows[1])
    np.testing.assert_allclose(rows, ahead(run.params), rtol=1e-6, atol=2e-6)


def test_every_kind_is_tried(kinds):
    assert set(kinds) == set(KINDS)
    assert {run.vocab.level for run in kinds.values()} == {"byte", "char", "word", "bpe", "ids"}


def test_programs_are_for_three_platforms_and_any_rows(kinds):
    found = portable.portable(kinds["following"].model, kinds["following"].params)
    for program in found.programs.values():
        read = export.deserialize(program.serialize())
        assert read.platforms == ("cpu", "cuda", "tpu")
        assert {str(aval.shape[0]) for aval in read.out_avals} == {"rows"}
        assert not re.search(rb"\w\.py\b", program.serialize()), "says where files lie"
    # Tables are arguments: no program grows with them.
    assert sum(len(program.serialize()) for program in found.programs.values()) < 200_000


def test_the_same_model_gives_the_same_files(kinds, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, take_text(kinds["mlp"]), "mlp")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 7
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


# Runs


@pytest.fixture(scope="module")
def made(scripts, tmp_path_factory) -> Path:
    """A net with two checkpoints, counts and a mixture of them, of one text."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "corpus.txt").write_text(PROSE * 2, encoding="utf-8")
    corpus = (f"--corpus={folder / 'corpus.txt'}", "--level=word")
    flags = "--num_train_steps=20 --eval_every=10 --checkpoint_every=10 --keep_checkpoints=2".split()
    scripts.summary("train_lm", *corpus, *SMALL, *flags, f"--workdir={folder / 'net'}")
    counts = ["--order=3", "--discount_fallback", "--write_arpa"]
    scripts.summary("train_ngram", *corpus, *counts, f"--workdir={folder / 'counts'}")
    series = "--model=gru --head=normal --hidden_size=8 --num_points=200 --num_train_steps=20".split()
    series += "--steps_per_dispatch=20 --max_horizon=8 --num_paths=9 --warmup_steps=5".split()
    scripts.summary("predict_series", *series, f"--workdir={folder / 'series'}")
    mix(folder, "net", "counts")
    return folder


def mix(folder: Path, *names: str) -> None:
    """What mix_models would write of two runs, but for the weights, which it fits."""
    (folder / "mixed").mkdir()
    places = [
        {"path": f"../{name}", "params_digest": digest(runs.load_run(folder / name).params)} for name in names
    ]
    fitted = {"runs": places, "weights": [0.3, 0.7], "caches": []}
    (folder / "mixed" / "mixture.json").write_text(json.dumps(fitted))
    config = MixtureConfig(runs=",".join(str(folder / name) for name in names))
    (folder / "mixed" / "config.json").write_text(knobs.to_json(config, "mix_models"))


@pytest.mark.parametrize(("name", "script"), list(RUNS.items()))
def test_runs_are_exported_and_read_elsewhere(made, exported, elsewhere, name, script):
    run, folder = runs.load_run(made / name), exported / name
    ids = run.vocab.encode(TEXT)
    expected = np.asarray(scoring.score(run.model, run.params, ids), np.float64).sum()
    assert elsewhere[name]["nats"] == pytest.approx(expected, rel=1e-6)
    assert (folder / "vocab.json").read_text() == run.vocab.to_json()
    config = json.loads((folder / "config.json").read_text())
    assert config == {"script": script} | knobs.to_flat(run.config)
    said = json.loads((folder / "said").read_text())
    facts = json.loads((folder / "export.json").read_text())
    assert facts.items() <= said.items() and facts["step"] == run.step
    assert facts["jax"] == jax.__version__ and facts["calling_convention_version"] >= 9
    sizes = (path.stat().st_size for path in folder.iterdir() if path.name != "said")
    assert said["bytes"] == sum(sizes)


def test_series_are_forecast_elsewhere(made, exported, elsewhere):
    fitted, folder = saved.load(made / "series"), exported / "series"
    (units,) = json.loads((folder / "units.json").read_text())["series"]
    scaler = fitted.panel.only.scaler
    assert (units["mean"], units["scale"], units["log"]) == (scaler.mean, scaler.scale, False)
    rows = jnp.asarray(scaler.apply(np.array([[0.1], [0.5], [0.9], [0.7], [0.2]])))
    carry = fitted.model.init_carry(fitted.params, 1)
    carry, _ = fitted.model.unroll(fitted.params, carry, rows[None])
    direct, recursive = elsewhere["series"]
    near(direct, rollout.rollout(fitted.model, fitted.params, carry, len(direct))[0])
    for value in recursive[:3]:
        mean = fitted.model.readout(fitted.params, carry).mean
        near(value, mean[0])
        carry = fitted.model.update(fitted.params, carry, mean)
    assert len(direct) == fitted.config.objective.num_ahead and len(recursive) == 24


def test_series_with_covariates_are_refused():
    panel = SimpleNamespace(covariates=Covariates(past=2))
    with pytest.raises(ValueError, match="a model that reads covariates cannot be exported"):
        take_series(SimpleNamespace(config=None, panel=panel))


def near(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_best_is_chosen_as_elsewhere(scripts, made, tmp_path):
    best = runs.load_run(made / "net", "best")
    for number, flags in enumerate((["--checkpoint=best"], [])):
        name = made / "net" if flags else f"{made / 'net'}:best"
        out = tmp_path / str(number)
        assert scripts.attempt("export", f"--run={name}", *flags, f"--out={out}").returncode == 0
        assert json.loads((out / "export.json").read_text())["step"] == best.step


def test_an_arpa_file_has_no_settings(scripts, made, tmp_path):
    (arpa,) = made.rglob("*.arpa")
    done = scripts.attempt("export", f"--run={arpa}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "config.json").read_text() == "{}\n"
    assert json.loads(done.stdout)["level"] == "word"


def test_loops_compiled_for_this_processor_stay_here(made):
    """An adapted net unrolls, and would call them."""
    parts = runs.load_run(made / "mixed", backend="scan").model.parts
    assert parts[0].module.backend == "scan"
    assert runs.load_run(made / "net").model.module.backend == "auto"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "expected --run=PATH"),
        (["--run={net}"], "expected --out=DIR"),
        (["--run={made}/none", "--out={out}"], "but there is nothing: check the path"),
        (["--run={made}", "--out={out}"], "expected a language model in .*made"),
        (["--run={net}:7", "--out={out}"], "7"),
        (["--run={made}/counts:7", "--out={out}"], "was not trained in steps"),
        (["--run={net}", "--out={made}"], "expected a folder that is not there yet, .* exists"),
        (["--run={net}", "--out={made}/corpus.txt/x"], "a file stands where a folder should"),
        (["--run={other}", "--out={out}"], r"it holds a run of compare_objectives"),
        (["--run={made}/series:best", "--out={out}"], "the parameters it was judged by: leave :best out"),
        (["--run={made}/series", "--checkpoint=latest", "--out={out}"], "leave --checkpoint out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(scripts, made, tmp_path, flags, says):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"script": "compare_objectives"}')
    places = {"made": made, "net": made / "net", "out": tmp_path / "a" / "out", "other": other}
    _, line = refusal(scripts.attempt("export", *(flag.format(**places) for flag in flags)))
    assert re.search(says, line), line
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_fails_half_way_leaves_nothing(scripts, made, tmp_path, monkeypatch):
    def full(folder, found, facts):
        (folder / "params.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(portable, "write_portable", full)
    done = scripts.attempt("export", f"--run={made / 'net'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and "No space left" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []

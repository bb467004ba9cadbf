"""Mixtures of runs that follow the text: adapted nets, weights that change, and the folders of both."""

import json

import jax
import numpy as np
import pytest

from lmseq import runs, scoring
from lmseq.config.mixture import MixtureConfig, check
from lmseq.models.dynamic import Dynamic, with_rates
from lmseq.models.following import Following
from lmseq.models.mixture import Mixture
from tests.scripts import SMALL


@pytest.fixture(scope="module")
def made(scripts, tmp_path_factory):
    """A count model and a net of one text."""
    folder = tmp_path_factory.mktemp("made")
    corpus = folder / "corpus.txt"
    corpus.write_text("the tide is low and the boats are out\nthe boats are in and the tide is high\n" * 120)
    scripts.summary(
        "train_ngram",
        f"--corpus={corpus}",
        "--order=2",
        "--discount_fallback",
        f"--workdir={folder / 'counts'}",
    )
    flags = [f"--corpus={corpus}", "--num_train_steps=60", f"--workdir={folder / 'net'}"]
    scripts.summary("train_lm", *SMALL, *flags)
    return folder


def mean(part, ids) -> float:
    return -scoring.score_stream(*part, ids).mean(dtype=np.float64)


def test_nets_that_follow_the_text(scripts, made, tmp_path):
    """Counts stay as they are; the rate is the best on the validation text; the folder does it, too."""
    flags = [f"--runs={made / 'counts'},{made / 'net'}", f"--workdir={tmp_path / 'mixed'}"]
    flags += ["--dynamic_rate=0.001,0.1,100", "--dynamic_segment=7", "--dynamic_decay=0.01"]
    found = scripts.summary("mix_models", *flags)
    assert found["dynamic"] == [None, {"segment": 7, "rate": 0.1, "decay": 0.01}]
    named = {"counts", "net, static", "net, adapted"}
    assert {f"test_loss_{name}" for name in named} == {key for key in found if key.startswith("test_loss_")}
    assert found["valid_loss_net, adapted"] < found["valid_loss_net, static"]
    assert found["valid_loss"] <= min(found[f"valid_loss_{name}"] for name in named) + 1e-6
    run = runs.load_run(tmp_path / "mixed")
    assert isinstance(run.model, Mixture) and isinstance(run.model.parts[1], Dynamic)
    text = "the tide is low and the boats are out " * 3
    scored = scripts.summary("score_text", f"--run={tmp_path / 'mixed'}", f"--text={text}")
    ids = run.vocab.encode(text)
    assert scored["log_likelihood"] == pytest.approx(-mean((run.model, run.params), ids) * len(ids), rel=1e-4)
    drawn = [f"--run={tmp_path / 'mixed'}", "--prompt=the", "--num_tokens=9", "--num_samples=2"]
    assert len(scripts.summary("sample_text", *drawn)["samples"]) == 2
    assert scripts.summary("mix_models", *flags) == found


def test_one_net_that_follows_the_text(scripts, made, tmp_path):
    """A mixture of one: what it has is what the net has by itself."""
    flags = [f"--runs={made / 'net'}", "--dynamic_rate=0.1", f"--workdir={tmp_path / 'mixed'}"]
    found = scripts.summary("mix_models", *flags)
    assert found["weights"] == [1.0]
    assert found["test_loss"] == found["test_loss_net, adapted"]
    net = runs.load_run(made / "net")
    ids = net.vocab.encode("the tide is low and the boats are out")
    mixed = runs.load_run(tmp_path / "mixed")
    adapted = with_rates(net.model, net.params, 20, 0.1, 0.0)
    assert mean((mixed.model, mixed.params), ids) == pytest.approx(mean(adapted, ids), rel=1e-5)


def test_gradients_divided_by_their_size(scripts, made, tmp_path):
    """The folder holds what they are divided by, and says so where it is damaged."""
    flags = [f"--runs={made / 'net'}", "--dynamic_rate=0.001", "--dynamic_scaled"]
    found = scripts.summary("mix_models", *flags, f"--workdir={tmp_path / 'mixed'}")
    assert found["test_loss_net, adapted"] < found["test_loss_net, static"]
    run, net = runs.load_run(tmp_path / "mixed"), runs.load_run(made / "net")
    (params,) = run.params.parts
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), params.scale, net.params)
    assert all(np.all(leaf >= 1e-3) for leaf in jax.tree.leaves(params.scale))
    for damaged in (lambda path: path.write_bytes(b"PK"), lambda path: path.unlink()):
        damaged(tmp_path / "mixed" / "scale_net.npz")
        with pytest.raises(ValueError, match=r"scale_net\.npz is not there, or not what"):
            runs.load_run(tmp_path / "mixed")


def test_weights_that_follow_the_text(scripts, made, tmp_path):
    flags = [f"--runs={made / 'counts'},{made / 'net'}", "--weight_share=1,0.1,0.02"]
    found = scripts.summary("mix_models", *flags, f"--workdir={tmp_path / 'mixed'}")
    fixed = scripts.summary("mix_models", *flags[:1], f"--workdir={tmp_path / 'fixed'}")
    assert found["valid_loss"] <= fixed["valid_loss"] + 1e-6
    share = found.get("weight_share", 1.0)
    given = scripts.summary("mix_models", flags[0], "--weight_share=0.1", f"--workdir={tmp_path / 'given'}")
    assert share in (1.0, 0.1, 0.02) and given["weight_share"] == 0.1
    run = runs.load_run(tmp_path / "given")
    assert isinstance(run.model, Following) and float(run.params.share) == pytest.approx(0.1)
    scored = scripts.summary("score_text", f"--run={tmp_path / 'given'}", "--text=the tide")
    assert scored["num_tokens"] == len("the tide")


def test_an_adapted_net_behind_a_cache(scripts, made, tmp_path):
    """The cache compares by how often a token came, as an adapted net's states do not compare."""
    flags = [f"--runs={made / 'net'}", "--dynamic_rate=0.1", "--cache_size=20"]
    found = scripts.summary("mix_models", *flags, f"--workdir={tmp_path / 'mixed'}")
    assert {"test_loss_net, static, no cache", "test_loss_net, adapted"} <= set(found)
    scored = scripts.summary("score_text", f"--run={tmp_path / 'mixed'}", "--text=the tide")
    assert scored["num_tokens"] == len("the tide")


def test_what_is_off_is_not_written(scripts, made, tmp_path):
    flags = [f"--runs={made / 'counts'},{made / 'net'}", f"--workdir={tmp_path / 'mixed'}"]
    scripts.summary("mix_models", *flags)
    assert set(json.loads((tmp_path / "mixed" / "mixture.json").read_text())) == {"runs", "weights", "caches"}
    assert type(runs.load_run(tmp_path / "mixed").model) is Mixture


def test_counts_alone_do_not_adapt(scripts, made, tmp_path):
    flags = [f"--runs={made / 'counts'}", "--dynamic_rate=0.1", f"--workdir={tmp_path / 'mixed'}"]
    done = scripts.attempt("mix_models", *flags)
    assert done.returncode == 2
    assert "dynamic_rate=0.1 does nothing here: it is read by runs of train_lm only" in done.stderr


@pytest.mark.parametrize("change", [{"dynamic": [None]}, {"dynamic": [{"rate": 1}]}, {"weight_share": "a"}])
def test_a_damaged_mixture(tmp_path, change):
    (tmp_path / "config.json").write_text('{"runs": "a,b"}')
    fitted = {"runs": [{"path": "a", "params_digest": ""}] * 2, "weights": [0.5, 0.5], "caches": []}
    (tmp_path / "mixture.json").write_text(json.dumps(fitted | change))
    with pytest.raises(ValueError, match=r"mixture\.json is damaged"):
        runs.load_run(tmp_path)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dynamic_rate": "a"}, "expected dynamic_rate to be numbers from 0 up between commas, got 'a'"),
        ({"dynamic_rate": "0.1,-1"}, "expected dynamic_rate to be numbers from 0 up"),
        ({"dynamic_rate": "inf"}, "expected dynamic_rate to be numbers from 0 up"),
        ({"dynamic_rate": "0.1", "dynamic_segment": 0}, "expected dynamic_segment of at least 1, got 0"),
        ({"dynamic_rate": "0.1", "dynamic_decay": 1.0}, r"expected dynamic_decay in \[0, 1\), got 1.0"),
        ({"dynamic_segment": 5}, "dynamic_segment=5 does nothing here: it is read by a dynamic_rate above 0"),
        ({"dynamic_decay": 0.1}, "dynamic_decay=0.1 does nothing here"),
        (
            {"weight_share": "1.5"},
            "expected weight_share to be numbers from 0 to 1 between commas, got '1.5'",
        ),
        ({"weight_share": ""}, "expected weight_share to be numbers from 0 to 1"),
        ({"runs": "a", "dynamic_rate": "0.1", "weight_share": "0.1"}, "weight_share=0.1 does nothing here"),
        ({"runs": "a"}, "expected --runs=DIR,DIR, two or more, or one with"),
    ],
)
def test_settings_that_cannot_be(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(MixtureConfig(**({"runs": "a,b"} | settings)))

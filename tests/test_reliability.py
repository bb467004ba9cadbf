"""Calibration against plain loops over a stream, and on sources that are calibrated by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import reliability as calibration
from lmseq.data import sources
from lmseq.models.sources import put_source
from lmseq.reliability import EDGES, continuations, reliability
from tests.oracles import MarkovChain, chain_params, random_stream, sample_chain, small
from tests.scripts import SMALL, refusal


def predictions(model, params, stream):
    """The distribution of each token but the first, (T - 1, V), float64."""
    carry = model.init_carry(params, 1)
    return np.asarray(model.unroll(params, carry, jnp.asarray(stream)[None, :-1])[1][0], np.float64)


@pytest.mark.parametrize(
    "kind, length, most", [("gru", 300, 2**24), ("trigram of lines", 301, 16 * 3 * 5), ("gru", 2, 2**24)]
)
def test_every_place_and_symbol_is_counted_once(kind, length, most, monkeypatch):
    monkeypatch.setattr(calibration, "MOST_ENTRIES", most)
    model, params = small(kind)
    stream = random_stream(length)
    every, likeliest = reliability(model, params, stream)
    probs = np.exp(predictions(model, params, stream))
    came = np.eye(3)[stream[1:]]
    bins = np.searchsorted(EDGES, probs, side="right") - 1
    for i in range(len(EDGES)):
        inside = bins == i
        # A probability on an edge may be rounded to either side.
        assert abs(every.number[i] - inside.sum()) <= 1
        if every.number[i] == inside.sum():
            np.testing.assert_allclose(every.expected[i], probs[inside].sum(), rtol=1e-4, atol=1e-5)
            assert every.observed[i] == came[inside].sum()
    assert every.number.sum() == 3 * (length - 1) and every.observed.sum() == length - 1
    np.testing.assert_allclose(every.expected.sum(), length - 1, rtol=1e-5)
    top = probs.argmax(axis=1)
    np.testing.assert_allclose(likeliest.expected.sum(), probs.max(axis=1).sum(), rtol=1e-5)
    assert likeliest.observed.sum() == (top == stream[1:]).sum() and likeliest.number.sum() == length - 1


def test_a_source_is_calibrated_on_its_own_text_and_goes_on_as_it_is():
    source = sources.random_chain(np.random.default_rng(0), 5, 1)
    model, params = put_source(source)
    from lmseq.generation import generate

    stream = generate(jax.random.key(1), model, params, jnp.zeros(0, jnp.int32), num_tokens=20_000)
    every, likeliest = reliability(model, params, stream)
    for found in (every, likeliest):
        spread = np.sqrt(np.maximum(found.expected, 1.0))
        assert (np.abs(found.observed - found.expected) < 4 * spread).all()
    drawn = continuations(jax.random.key(0), model, params, stream, num_origins=200, num_tokens=50)
    assert drawn.entropy.shape == drawn.loss.shape == (200, 50)
    expected = sources.chain_entropies(source, 1)[1]
    for values in drawn:
        error = values.mean(axis=1).std(ddof=1) / np.sqrt(200)
        assert abs(values.mean() - expected) < 4 * error


@pytest.mark.parametrize("prob", [0.7, 0.9, 0.99])
def test_a_probability_on_an_edge_lies_in_one_bin(prob):
    transition = np.array([[prob, 1 - prob], [1 - prob, prob]])
    params = chain_params(np.array([0.5, 0.5]), transition)
    stream = sample_chain(np.random.default_rng(0), transition, 4000)
    for found in reliability(MarkovChain(2), params, stream):
        assert np.abs(found.observed - found.expected).max() < 200, found
        assert ((found.number > 0) | (found.observed == 0)).all()


@pytest.mark.parametrize("kind", ["gru"])
def test_continuations_begin_behind_all_of_the_text_before_them(kind):
    model, params = small(kind)
    stream = random_stream(120)
    found = continuations(jax.random.key(0), model, params, stream, num_origins=3, num_tokens=30)
    log_probs = predictions(model, params, stream)
    for row, origin in enumerate((30, 60, 90)):
        losses = -log_probs[origin - 1 : origin + 29][np.arange(30), stream[origin : origin + 30]]
        np.testing.assert_allclose(found.loss[row], losses, rtol=1e-3, atol=1e-4)
        first = log_probs[origin - 1]
        np.testing.assert_allclose(found.entropy[row, 0], -(np.exp(first) * first).sum(), rtol=1e-4)


def test_too_little_text_is_an_error():
    model, params = small("gru")
    with pytest.raises(ValueError, match="two tokens"):
        reliability(model, params, random_stream(1))
    with pytest.raises(ValueError, match="longer text"):
        continuations(jax.random.key(0), model, params, random_stream(9), num_origins=5, num_tokens=5)


def test_a_run_is_judged_on_its_validation_text_or_another(tmp_path, scripts):
    corpus = tmp_path / "text.txt"
    corpus.write_text("the tide is out, and the tide is in again.\n" * 200)
    run = f"--run={tmp_path / 'run'}"
    scripts.summary(
        "train_lm", f"--workdir={tmp_path / 'run'}", f"--corpus={corpus}", *SMALL, "--num_train_steps=20"
    )
    sizes = ["--num_origins=4", "--num_tokens=16"]
    own = scripts.summary("calibrate", run, f"--out={tmp_path / 'own.png'}", *sizes)
    assert own["num_tokens"] == 430 and (tmp_path / "own.png").stat().st_size > 10_000
    assert sum(each["observed"] for each in own["bins"]) == 429
    assert [each["tokens"] for each in own["continuations"]] == [1, 2, 4, 8, 16]
    few = scripts.summary("calibrate", run, f"--out={tmp_path / 'few.png'}", "--num_tokens=100")
    assert few["continuations"][-1]["tokens"] == 100, "three stretches, as there is no room for more"
    file = [f"--file={corpus}", f"--out={tmp_path / 'all.png'}"]
    assert scripts.summary("calibrate", run, *file, *sizes)["num_tokens"] == 8600
    for flags, says in {
        ("--out=a.png",): "--run",
        (run,): "--out",
        (run, "--out=a.txt"): "--out",
        (run, "--out=a.png", "--num_origins=1"): "num_origins",
        (run, f"--out={tmp_path / 'a.png'}", "--num_tokens=400", "--num_origins=64"): "fewer",
    }.items():
        assert says in refusal(scripts.attempt("calibrate", *flags))[1]

"""Continuations: their frequencies, their log-probabilities, and the search for the likeliest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmseq import generation, scoring
from lmseq.sampling import Decoding, truncate
from tests.oracles import ALL, MarkovChain, all_strings, chain_params, small

V = 3
PROMPT = np.array([1, 0, 2, 1], np.int32)
sequence_log_probs = jax.jit(scoring.sequence_log_probs, static_argnums=0)


def continuations(model, params, prompt: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Every continuation, (V^N, N), and its exact log-probability."""
    strings = all_strings(V, length)
    whole = np.concatenate([np.tile(prompt, (len(strings), 1)), strings], axis=1)
    log_probs = sequence_log_probs(model, params, jnp.asarray(whole))
    return strings, np.asarray(log_probs, np.float64)[:, len(prompt) :].sum(axis=1)


@pytest.mark.parametrize("kind", ["gru", "mlp", "chain"])
@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:0]], ids=["prompt", "no prompt"])
def test_samples_follow_the_model(kind, prompt):
    model, params = small(kind)
    _, log_probs = continuations(model, params, prompt, 3)
    samples = generation.sample_streams(
        jax.random.key(3), model, params, prompt, num_samples=30_000, num_tokens=3
    )
    counts = np.bincount(np.asarray(samples.tokens) @ [9, 3, 1], minlength=27)
    expected = 30_000 * np.exp(log_probs)
    often = expected >= 5
    found, wanted = (
        np.append(counts[often], counts[~often].sum()),
        np.append(expected[often], expected[~often].sum()),
    )
    keep = wanted > 0
    assert stats.chisquare(found[keep], wanted[keep] * found.sum() / wanted.sum()).pvalue > 1e-3


@pytest.mark.parametrize("kind", ALL)
def test_log_probs_are_the_models_own_at_any_temperature(kind):
    model, params = small(kind)
    samples = generation.sample_streams(
        jax.random.key(0), model, params, PROMPT, num_samples=5, num_tokens=6, decoding=Decoding(0.4, 2, 0.9)
    )
    whole = jnp.concatenate([jnp.tile(jnp.asarray(PROMPT), (5, 1)), samples.tokens], axis=1)
    expected = sequence_log_probs(model, params, whole)[:, 4:]
    np.testing.assert_allclose(samples.log_probs, expected, rtol=1e-4, atol=1e-5)


def test_the_same_key_gives_the_same_text_and_another_another():
    model, params = small("lstm")

    def text(seed):
        return generation.generate(jax.random.key(seed), model, params, PROMPT, num_tokens=40).tolist()

    assert text(0) == text(0) != text(1)


def test_greedy_takes_the_likeliest_step_by_step():
    model, params = small("gru")
    found = generation.generate(
        jax.random.key(0), model, params, PROMPT, num_tokens=7, decoding=Decoding(temperature=0.0)
    )
    string = PROMPT.tolist()
    for _ in range(7):
        nexts = [scoring.score(model, params, jnp.array([*string, token]))[-1] for token in range(V)]
        string.append(int(np.argmax(nexts)))
    assert found.tolist() == string[4:]


@pytest.mark.parametrize("kind", ["gru", "lstm, two layers", "mlp", "chain"])
def test_a_full_beam_finds_what_exhaustive_search_finds(kind):
    model, params = small(kind)
    strings, log_probs = continuations(model, params, PROMPT, 4)
    best = np.argsort(-log_probs, kind="stable")
    beam = generation.beam_search(model, params, PROMPT, beam_size=27, num_tokens=4)
    totals = np.asarray(beam.log_probs, np.float64).sum(axis=1)
    np.testing.assert_allclose(totals, log_probs[best[:27]], rtol=1e-5, atol=1e-5)
    assert beam.tokens[0].tolist() == strings[best[0]].tolist()
    by_string = {tuple(string): value for string, value in zip(strings.tolist(), log_probs, strict=True)}
    found = [by_string[tuple(string)] for string in beam.tokens.tolist()]
    np.testing.assert_allclose(totals, found, rtol=1e-5, atol=1e-5)
    assert len({tuple(string) for string in beam.tokens.tolist()}) == 27


def test_a_narrow_beam_is_sorted_and_no_worse_than_greedy():
    model, params = small("gru")
    greedy = generation.beam_search(model, params, PROMPT, beam_size=1, num_tokens=6)
    wide = generation.beam_search(model, params, PROMPT, beam_size=4, num_tokens=6)
    totals = np.asarray(wide.log_probs).sum(axis=1)
    assert (np.diff(totals) <= 0).all() and totals[0] >= np.asarray(greedy.log_probs).sum() - 1e-6
    argmax = generation.generate(
        jax.random.key(0), model, params, PROMPT, num_tokens=6, decoding=Decoding(temperature=0.0)
    )
    assert greedy.tokens[0].tolist() == argmax.tolist()


def test_a_beam_wider_than_all_there_is_marks_the_surplus():
    model, params = small("rnn")
    beam = generation.beam_search(model, params, PROMPT[:0], beam_size=12, num_tokens=2)
    totals = np.asarray(beam.log_probs).sum(axis=1)
    assert np.isfinite(totals).tolist() == [True] * 9 + [False] * 3
    assert abs(np.exp(totals).sum() - 1) < 1e-5 and np.isneginf(totals[9:]).all()


@pytest.mark.parametrize("counts", [{"num_samples": 0}, {"num_tokens": 0}])
def test_counts_below_one_are_refused(counts):
    model, params = small("chain")
    with pytest.raises(ValueError, match=f"expected {next(iter(counts))} of at least 1"):
        generation.sample_streams(
            jax.random.key(0), model, params, PROMPT, **({"num_samples": 1, "num_tokens": 1} | counts)
        )
    with pytest.raises(ValueError, match="expected beam_size of at least 1"):
        generation.beam_search(model, params, PROMPT, beam_size=0, num_tokens=1)


def test_the_beam_passes_over_what_is_impossible():
    """From token 1 of this chain only 0 or 1 may follow, and after 0 only 2: six slots, three strings."""
    transition = np.array([[0.0, 0.0, 1.0], [0.7, 0.3, 0.0], [0.5, 0.25, 0.25]])
    params = chain_params(np.full(3, 1 / 3), transition)
    beam = generation.beam_search(MarkovChain(3), params, PROMPT, beam_size=6, num_tokens=2)
    assert beam.tokens[:3].tolist() == [[0, 2], [1, 0], [1, 1]]
    totals = np.asarray(beam.log_probs).sum(axis=1)
    np.testing.assert_allclose(np.exp(totals), [0.7, 0.21, 0.09, 0, 0, 0], rtol=1e-5)


def test_streams_are_drawn_apart():
    """Pairs of neighbouring streams agree as often as independent draws do."""
    model, params = small("chain")
    drawn = generation.sample_streams(
        jax.random.key(5), model, params, PROMPT[:0], num_samples=20_000, num_tokens=1
    ).tokens[:, 0]
    probs = np.exp(np.asarray(params["initial"], np.float64))
    agree, expected = (np.asarray(drawn)[::2] == np.asarray(drawn)[1::2]).mean(), (probs**2).sum()
    assert abs(agree - expected) < 4 * np.sqrt(expected * (1 - expected) / 10_000)


def test_left_out_tokens_are_never_drawn():
    """The others have what the model gives them given that no left-out one comes; scores stay the model's."""
    model, params = small("chain")
    _, log_probs = continuations(model, params, PROMPT, 2)
    drawn = generation.sample_streams(
        jax.random.key(4), model, params, PROMPT, num_samples=30_000, num_tokens=2, never=(0,)
    )
    assert not (np.asarray(drawn.tokens) == 0).any()
    given = np.exp(np.asarray(params["transition"], np.float64)) * [0, 1, 1]
    given /= given.sum(axis=1, keepdims=True)
    expected = (given[PROMPT[-1], 1:, None] * given[1:, 1:]).ravel()
    counts = np.bincount(np.asarray(drawn.tokens) @ [3, 1], minlength=9)[[4, 5, 7, 8]]
    assert stats.chisquare(counts, 30_000 * expected).pvalue > 1e-3
    own = log_probs.reshape(3, 3)[tuple(np.asarray(drawn.tokens[:50]).T)]
    np.testing.assert_allclose(drawn.log_probs[:50].sum(axis=1), own, rtol=1e-4)


@pytest.mark.parametrize("decoding", [Decoding(top_k=1), Decoding(top_k=2), Decoding(0.5, top_p=0.7)])
def test_what_is_left_out_is_so_before_the_rest_is_truncated(decoding):
    """Of one token, as what `truncate` leaves of the model given that no left-out one comes."""
    model, params = small("chain")
    drawn = generation.sample_streams(
        jax.random.key(4),
        model,
        params,
        PROMPT,
        num_samples=20_000,
        num_tokens=1,
        decoding=decoding,
        never=(0,),
    )
    row = np.asarray(params["transition"], np.float64)[PROMPT[-1]] + [-np.inf, 0, 0]
    expected = np.exp(np.asarray(truncate(jnp.asarray(row[None], jnp.float32), decoding))[0])
    counts = np.bincount(np.asarray(drawn.tokens)[:, 0], minlength=3)
    assert not counts[expected == 0].any()
    shares = expected[expected > 0] / expected.sum()
    assert shares.size == 1 or stats.chisquare(counts[expected > 0], 20_000 * shares).pvalue > 1e-3


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(2.0)])
def test_samples_without_what_is_left_out_stay_as_they_were(decoding):
    """Bit for bit up to where a left-out token would have been drawn."""
    model, params = small("gru")
    more = {"num_samples": 200, "num_tokens": 4, "decoding": decoding}
    free, kept = (
        generation.sample_streams(jax.random.key(1), model, params, PROMPT, **more, never=never)
        for never in ((), (1,))
    )
    clean = np.cumsum(np.asarray(free.tokens) == 1, axis=1) == 0
    assert 0 < clean.sum() < clean.size
    for one, other in zip(free, kept, strict=True):
        np.testing.assert_array_equal(np.asarray(one)[clean], np.asarray(other)[clean])
    assert not (np.asarray(kept.tokens) == 1).any()


def test_greedy_and_beam_leave_out_too():
    model, params = small("gru")
    greedy = generation.generate(
        jax.random.key(0), model, params, PROMPT, num_tokens=5, decoding=Decoding(0.0), never=(1, 2)
    )
    assert greedy.tolist() == [0] * 5
    strings, log_probs = continuations(model, params, PROMPT, 3)
    beam = generation.beam_search(model, params, PROMPT, beam_size=27, num_tokens=3, never=(1,))
    allowed = (strings != 1).all(axis=1)
    totals = np.asarray(beam.log_probs).sum(axis=1)
    np.testing.assert_allclose(totals[:8], -np.sort(-log_probs[allowed]), rtol=1e-5, atol=1e-5)
    assert np.isneginf(totals[8:]).all() and not (np.asarray(beam.tokens[:8]) == 1).any()


def test_where_nothing_else_is_possible_it_stays():
    params = chain_params(np.full(3, 1 / 3), np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    model, prompt = MarkovChain(3), np.array([2], np.int32)
    drawn = generation.generate(jax.random.key(0), model, params, prompt, num_tokens=3, never=(0,))
    assert drawn.tolist() == [0, 1, 2]
    beam = generation.beam_search(model, params, prompt, beam_size=2, num_tokens=3, never=(0,))
    assert not np.isfinite(np.asarray(beam.log_probs).sum(axis=1)).any()

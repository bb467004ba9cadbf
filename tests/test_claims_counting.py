"""The claims about counts: what their figures are computed by, on cases that are known by hand."""

import json

import numpy as np
import pytest

from experiments.claims import frontier, known_sources, power_law
from experiments.claims.counting_walls import crossing, grammar, text
from lmseq.data.sources import make_grammar
from lmseq.models.sources import put_source
from lmseq.ngram.backoff import score_words
from lmseq.ngram.counts import FIRST_WORD_ID, count_ngrams, mark_sentences
from lmseq.ngram.smoothing import maximum_likelihood, modified_kneser_ney
from tests.pictures import is_drawn_on
from tests.scripts import Scripts

THE, CAT, DOG, RAN = range(FIRST_WORD_ID, FIRST_WORD_ID + 4)


def sentences(*words: list[int]) -> np.ndarray:
    return mark_sentences([np.array(each, np.int32) for each in words])


# Power laws


def test_a_power_law_is_recovered():
    ranks = power_law.log_spaced_ranks(2, 5000)
    law = power_law.fit_power_law(ranks, 700.0 * ranks**-1.25)
    np.testing.assert_allclose(law, (-1.25, 700.0, 1.0), rtol=1e-9)


def test_noise_lowers_the_share_that_is_explained():
    x = np.arange(1, 200)
    noise = np.exp(np.random.default_rng(0).normal(0.0, 0.5, x.size))
    law = power_law.fit_power_law(x, noise / x)
    assert abs(law.exponent + 1.0) < 0.15 and 0.5 < law.r_squared < 0.95


def test_ranks_are_different_and_reach_from_end_to_end():
    ranks = power_law.log_spaced_ranks(5, 1000)
    assert ranks[0] == 5 and ranks[-1] == 1000 and (np.diff(ranks) > 0).all()


def test_frequencies_by_hand():
    words = np.array([0, 1, 0, 1, 2, 0, 1])
    assert power_law.frequencies(words, 1).tolist() == [3, 3, 1]
    assert power_law.frequencies(words, 2).tolist() == [3, 1, 1, 1]
    assert power_law.frequencies(words, 3).tolist() == [1] * 5


@pytest.mark.parametrize("y", [(1.0, 2.0), (1.0, 0.0, 2.0)])
def test_a_fit_needs_three_points_above_zero(y: tuple[float, ...]):
    with pytest.raises(ValueError, match="three points"):
        power_law.fit_power_law(range(1, len(y) + 1), y)


# Zeros and storage


def test_the_share_of_zeros_by_hand():
    train = sentences([THE, CAT, RAN], [THE, DOG])
    held = sentences([THE, CAT], [THE, DOG], [], [CAT, RAN])  # `cat </s>` and `<s> cat` were never seen
    found = text.zero_shares(train, held, RAN + 1)
    assert found["maximum_likelihood"][:2] == pytest.approx([0.0, 2 / 3])
    assert found["smoothed"] == [0.0] * len(found["smoothed"])


def test_a_word_that_training_lacks_makes_a_zero():
    counts = count_ngrams(sentences([THE, CAT]), RAN + 1, 1)
    held = sentences([THE], [DOG])
    assert text.zero_share(score_words(maximum_likelihood(counts).tables, held), held) == 0.5


def test_folds_are_whole_sentences_and_all_of_them():
    stream = sentences([THE, CAT], [THE], [DOG, RAN], [RAN], [CAT])
    held = [text.fold(stream, part, 3) for part in range(3)]
    np.testing.assert_array_equal(np.concatenate([part for _, part in held]), stream)
    assert all(part[0] == stream[0] and len(rest) + len(part) == len(stream) for rest, part in held)
    with pytest.raises(ValueError, match="6 lines"):
        text.fold(stream, 0, 6)


def test_rare_words_become_one_word():
    train, held = sentences([THE, CAT, THE]), sentences([THE, DOG, CAT])
    closed, of_held = text.close_vocabulary(train, held, RAN + 1, 2)
    rare = RAN + 1
    np.testing.assert_array_equal(closed, sentences([THE, rare, THE]))
    np.testing.assert_array_equal(of_held, sentences([THE, rare, rare]))


def test_storage_counts_what_there_is():
    stream = sentences(*[[THE, CAT]] * 400)
    found = text.storage(stream, RAN + 1)
    assert found.tokens == [512, 1024, 1600]
    assert found.types == [4, 4, 4]  # <s> the cat </s>
    assert found.distinct[-1] == [4, 3, 2, 1, 0]


def test_bytes_are_of_numbers_of_32_bits():
    counts = count_ngrams(sentences([THE, CAT], [THE, DOG]), RAN + 1, 2)
    tables = modified_kneser_ney(counts, discount_fallback=True).tables
    arrays = [array for table in tables.orders for array in table]
    assert text.bytes_of(tables) == 4 * sum(array.size for array in arrays) < tables.num_bytes


# Size


def test_the_frontier_leaves_out_what_is_larger_and_no_better():
    sizes, losses = frontier.frontier([10, 1000, 100, 100, 10_000], [3.0, 2.5, 2.0, 2.2, 1.0])
    assert sizes.tolist() == [10, 100, 10_000] and losses.tolist() == [3.0, 2.0, 1.0]
    assert frontier.least_loss(sizes, losses, 1000) == pytest.approx(1.5)
    assert frontier.least_loss(sizes, losses, 5) == np.inf and frontier.least_loss(sizes, losses, 1e6) == 1.0
    assert frontier.bytes_for(sizes, losses, 1.5) == pytest.approx(1000)
    assert frontier.bytes_for(sizes, losses, 0.9) is None


# The grammar


def test_the_divergence_of_a_made_up_distribution():
    p, q = np.array([0.5, 0.25, 0.25, 0.0]), np.array([0.25, 0.25, 0.25, 0.25])
    assert grammar.share_of_divergence(p, np.log(q)) == pytest.approx(0.5 * np.log(2))
    assert grammar.share_of_divergence(p, np.log(np.maximum(p, 1e-9))) == pytest.approx(0.0)
    assert grammar.share_of_divergence(p[:1], np.log(q[:1])) == pytest.approx(np.log(2))


def test_unseen_pairs_are_of_words_that_were_seen():
    made = make_grammar(2, 2, 2, (2,))
    (a, b), (c, d) = made.nouns[0], made.verbs[0]
    stream = np.array([a, c, made.period, b, d, made.period, made.nouns[1, 0]])
    nouns, verbs = grammar.unseen_pairs(stream, made)
    assert set(zip(nouns.tolist(), verbs.tolist(), strict=True)) == {(a, d), (b, c)}


def test_cosines_of_vectors_along_axes():
    vectors = np.repeat(np.eye(2), 3, axis=0) * np.arange(1.0, 7.0)[:, None]
    within, between = grammar.class_cosines(vectors, np.arange(6).reshape(2, 3))
    assert within == pytest.approx(1.0) and between == pytest.approx(0.0)


def test_the_truth_agrees_at_any_distance():
    made = make_grammar(2, 2, 2, (3, 9))
    truth = grammar.predictor(*put_source(made.source))
    assert [grammar.agreement(truth, made, distance) for distance in (3, 9)] == [1.0, 1.0]


def test_counts_agree_as_far_as_they_see():
    made = make_grammar(2, 2, 2, (3, 9), agreement_share=0.5)
    (stream,) = known_sources.samples(made.source, [0], 20_000)
    order_4 = grammar.fit_sample_counts(stream, made.source.vocab_size, 4)
    assert grammar.agreement(order_4, made, 3) > 0.95
    assert grammar.agreement(order_4, made, 9) == pytest.approx(0.5)


def test_counts_predict_distributions():
    made = make_grammar(2, 2, 2, (3,))
    (stream,) = known_sources.samples(made.source, [1], 500)
    predict = grammar.fit_sample_counts(stream, made.source.vocab_size, 3)
    probs = np.exp(predict(grammar.openings(made, 2)))
    np.testing.assert_allclose(probs.sum(axis=1), 1.0)


# Crossing


@pytest.mark.parametrize(
    ("gaps", "where"),
    [
        ([-1.0, 1.0, 2.0], 10.0**1.5),
        ([-1.0, -2.0, -0.1], None),
        ([1.0, 1.0, 1.0], 10.0),
        ([1.0, -1.0, 1.0], 10.0**2.5),
    ],
)
def test_where_two_curves_cross(gaps: list[float], where: float | None):
    assert crossing.crossing([10, 100, 1000], gaps) == (where and pytest.approx(where))


def test_sizes_end_with_all_there_is():
    assert crossing.measured_sizes([100, 10, 1000], 500) == [10, 100, 500]


# The script


def test_zipf_from_end_to_end(processes: Scripts, tmp_path):
    summary = processes.summary("claims.zipf", f"--workdir={tmp_path / 'run'}", "--quick")
    assert summary["verdict"] == "holds"
    is_drawn_on(tmp_path / "run" / "zipf.png")
    assert summary["exponent_1"] > summary["exponent_2"] > summary["exponent_3"] > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary

"""Samples of sources of known entropy, and what the sources themselves and counts lose on them."""

import math

import numpy as np
import pytest

from experiments.claims import known_sources
from lmseq.config.language_model import ModelConfig
from lmseq.data.sources import MarkovChain, chain_entropies, entropy_brackets, random_hidden_markov
from lmseq.models.sources import put_source

TABLE = np.random.default_rng(1).dirichlet(np.full(3, 0.4), 3)
CHAIN = MarkovChain(TABLE)


@pytest.fixture(scope="module")
def streams():
    return known_sources.samples(CHAIN, (3, 8), 30_000)


def test_streams_are_their_seeds_own(streams):
    (again,) = known_sources.samples(CHAIN, (8,), 30_000)
    assert np.array_equal(again, streams[1]) and not np.array_equal(*streams)
    assert all(stream.dtype == np.int32 and set(stream) <= {0, 1, 2} for stream in streams)


@pytest.mark.parametrize("size", [9, 10, 11])
def test_the_last_third_is_scored(size):
    train, test = known_sources.parts(np.arange(size))
    assert np.array_equal(np.concatenate([train, test]), np.arange(size)) and len(test) == size // 3


def test_the_first_tokens_of_a_test_are_not_counted(streams):
    test = known_sources.parts(streams[0])[1]
    expected = -np.log(TABLE[test[:-1], test[1:]])[known_sources.SKIPPED - 1 :].mean()
    assert known_sources.test_loss(*put_source(CHAIN), streams[0]) == pytest.approx(expected, rel=1e-5)


def test_a_source_loses_its_entropy_rate(streams):
    rate = chain_entropies(CHAIN, 1)[1]
    assert known_sources.source_losses(CHAIN, streams) == pytest.approx([rate, rate], abs=0.02)
    hidden = random_hidden_markov(np.random.default_rng(1), 2, 3, 0.9, 0.7)
    stream = known_sources.samples(hidden, (0,), 30_000)
    rate = entropy_brackets(hidden, 10).upper[-1]
    assert known_sources.source_losses(hidden, stream) == pytest.approx([rate], abs=0.02)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_counts_of_an_order_lose_the_entropy_given_what_they_see(streams, order):
    """Of order 1 they remember nothing at all; two tokens of context tell no more than one."""
    expected = chain_entropies(CHAIN, 1)[min(order - 1, 1)]
    found = known_sources.count_losses(3, streams, order)
    assert found == pytest.approx([expected, expected], abs=0.02)
    of_source = known_sources.source_losses(CHAIN, streams)
    assert all(counted > known - 1e-3 for counted, known in zip(found, of_source, strict=True))


def test_a_net_learns_of_its_own_stream_what_there_is(streams):
    """A few steps bring it from log 3 towards the rate, for each seed."""
    config = ModelConfig(model="rnn", hidden_size=8, num_layers=1)
    cut = [stream[:9_000] for stream in streams]
    found = known_sources.neural_losses(config, 3, (3, 8), cut, 100)
    known = known_sources.source_losses(CHAIN, cut)
    for loss, least in zip(found, known, strict=True):
        assert least - 0.01 < loss < 0.5 * (least + math.log(3))

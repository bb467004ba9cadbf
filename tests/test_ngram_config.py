"""Settings of count models: what is refused, and what each changes."""

import dataclasses

import pytest

from lmseq.config.counts import CountConfig, NgramConfig, check, epsilons, memory_bytes, thresholds
from lmseq.config.knobs import from_flat, from_json, to_json


def config(**values) -> NgramConfig:
    return from_flat(values, NgramConfig)


def test_round_trip():
    made = config(order=3, prune="0,1", memory="3G", corpus="x.txt")
    assert from_json(to_json(made), NgramConfig) == made == check(made)
    assert (thresholds(made.count), memory_bytes(made.count)) == ([0, 1], 3 * 2**30)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"order": 0}, "order of at least 1"),
        ({"order": 101}, "order of at most 100"),
        ({"prune": "0,x"}, "prune as numbers"),
        ({"prune": "0,-1"}, "prune as numbers"),
        ({"smoothing": "epsilon", "epsilons": "1,0"}, "epsilons as numbers"),
        ({"smoothing": "epsilon", "epsilons": "1,nan"}, "epsilons as numbers"),
        ({"order": 2, "prune": "0,1,1"}, "up to 2 numbers"),
        ({"prune": "0,2,1"}, "never falling"),
        ({"order": 1, "smoothing": "epsilon", "epsilons": "1,1"}, "up to 1 epsilons"),
        ({"smoothing": "kneser_ney", "memory": "3G"}, "memory=3G does nothing"),
        ({"memory": "lots"}, "memory as a size of at least 64M"),
        ({"memory": "3K"}, "memory as a size of at least 64M"),
        ({"memory": "infG"}, "memory as a size of at least 64M"),
        ({"valid_fraction": 1.0}, "valid_fraction in"),
        ({"epsilons": "1"}, "epsilons=1 does nothing here"),
        ({"smoothing": "witten_bell", "discount_fallback": True}, "discount_fallback=True does nothing"),
        ({"smoothing": "kneser_ney", "kenlm_compat": True}, "kenlm_compat=True does nothing"),
        ({"smoothing": "kneser_ney", "prune": "0,1"}, "prune=0,1 does nothing"),
        (
            {"smoothing": "kneser_ney", "interpolate_unigrams": False},
            "interpolate_unigrams=False does nothing",
        ),
        ({"smoothing": "stupid_backoff", "write_arpa": True}, "ARPA file cannot hold"),
        ({"smoothing": "epsilon_unigram", "write_arpa": True}, "ARPA file cannot hold"),
        ({"level": "byte", "min_count": 2}, "min_count=2 does nothing"),
        ({"smoothing": "kneser"}, "expected smoothing to be one of"),
    ],
)
def test_what_is_refused(values, what):
    with pytest.raises(ValueError, match=what):
        check(config(**values))


@pytest.mark.parametrize(("text", "size"), [("", 0), ("64M", 2**26), ("1.5g", 3 * 2**29), ("2GB", 2**31)])
def test_sizes(text, size):
    assert memory_bytes(CountConfig(memory=text)) == size


def test_epsilons_by_order():
    assert epsilons(CountConfig(epsilons="1, 0.5,2e-3")) == [1.0, 0.5, 2e-3]
    assert epsilons(CountConfig()) == []


def test_every_knob_has_help():
    assert all(knob.metadata["help"] for knob in dataclasses.fields(CountConfig))

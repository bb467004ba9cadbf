"""What a run of a count model is made of, and the checks of it."""

from dataclasses import dataclass, field
from typing import Literal

from lmseq.config.knobs import at_least, check_idle, knob
from lmseq.config.text import TextConfig, check_text

Smoothing = Literal[
    "maximum_likelihood",
    "epsilon",
    "epsilon_unigram",
    "absolute_discounting",
    "witten_bell",
    "kneser_ney",
    "modified_kneser_ney",
    "stupid_backoff",
]
MOST_ORDER = 100
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class CountConfig:
    """The n-grams that are counted, and what becomes of their counts."""

    order: int = knob(5, "length of the longest n-grams")
    smoothing: Smoothing = knob(
        "modified_kneser_ney",
        "estimator; epsilon_unigram falls back from any context to unigrams; stupid_backoff gives scores "
        "that are no probabilities",
    )
    interpolate_unigrams: bool = knob(
        True, "share what unigrams leave among all words; otherwise <unk> has it alone"
    )
    discount_fallback: bool = knob(
        False, "where an order's discounts are undefined, as with characters, take 0.5, 1 and 1.5"
    )
    kenlm_compat: bool = knob(False, "reproduce the reference tool's statistics to the last n-gram")
    prune: str = knob(
        "", "leave out n-grams that occur at most so often, by order, such as 0,0,1; the last goes on"
    )
    epsilons: str = knob("", "e_1,e_2,... of the epsilon smoothings; empty: fitted on the validation text")
    write_arpa: bool = knob(False, "also write the model as model.arpa")
    by_order: bool = knob(True, "also estimate all lower orders, for the figure and the summary")
    memory: str = knob("", "make tables in files and stay within so many bytes, such as 3G; empty: no bound")


@dataclass(frozen=True)
class NgramConfig:
    """All of a count model's run."""

    text: TextConfig = field(default_factory=TextConfig)
    count: CountConfig = field(default_factory=CountConfig)


def check(config: NgramConfig) -> NgramConfig:
    """Return the config, or raise ValueError for the first setting out of range or that nothing reads."""
    count, modified = config.count, config.count.smoothing == "modified_kneser_ney"
    check_text(config.text)
    at_least(1, MOST_ORDER, order=count.order)
    given = thresholds(count)
    if len(given) > count.order or given[:1] not in ([], [0]) or sorted(given) != given:
        raise ValueError(
            f"expected prune as up to {count.order} numbers, 0 first and never falling, got {count.prune!r}"
        )
    if len(epsilons(count)) > count.order:
        raise ValueError(f"expected up to {count.order} epsilons, got {count.epsilons!r}")
    memory_bytes(count)
    discounted = ("absolute_discounting", "kneser_ney", "modified_kneser_ney")
    check_idle(
        (count, "interpolate_unigrams", modified, "smoothing modified_kneser_ney"),
        (count, "kenlm_compat", modified, "smoothing modified_kneser_ney"),
        (count, "prune", modified, "smoothing modified_kneser_ney"),
        (count, "memory", modified, "smoothing modified_kneser_ney"),
        (count, "discount_fallback", count.smoothing in discounted, "smoothings with discounts"),
        (count, "epsilons", count.smoothing.startswith("epsilon"), "smoothings epsilon and epsilon_unigram"),
    )
    if count.write_arpa and count.smoothing in ("stupid_backoff", "epsilon_unigram"):
        raise ValueError(f"write_arpa: an ARPA file cannot hold what smoothing {count.smoothing} gives")
    return config


def thresholds(count: CountConfig) -> list[int]:
    """Of pruning, by order; empty for none. Raises ValueError for what are no counts."""
    return [int(part) for part in _parts(count.prune, "prune", str.isdecimal)]


def epsilons(count: CountConfig) -> list[float]:
    """By order; empty where they are to be fitted. Raises ValueError for what are no numbers above 0."""

    def positive(part: str) -> bool:
        try:
            return 0.0 < float(part) < float("inf")
        except ValueError:
            return False

    return [float(part) for part in _parts(count.epsilons, "epsilons", positive)]


def _parts(text: str, name: str, good) -> list[str]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and good(part) for part in parts):
        raise ValueError(f"expected {name} as numbers separated by commas, got {text!r}")
    return parts


def memory_bytes(count: CountConfig) -> int:
    """The bound on memory, 0 for none. Raises ValueError for what is no size of at least 64 megabytes."""
    text = count.memory.strip().upper().removesuffix("B")
    if not text:
        return 0
    number, unit = (text[:-1], text[-1]) if text[-1] in UNITS else (text, "")
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size < 2**26:
        raise ValueError(f"expected memory as a size of at least 64M, such as 3G, got {count.memory!r}")
    return size

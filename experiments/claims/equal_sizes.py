"""Models of one cost: nets of so many parameters or bytes of carry, and the counts nearest to them."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from experiments.claims.answers import carry_bytes
from lmseq.config.language_model import ModelConfig
from lmseq.models.build import build_model
from lmseq.models.interface import count_parameters

NETS = ("mlp", "gru", "lstm", "mingru", "attention", "gated_deltanet", "gla,attention")
EVEN = ("attention", "gated_deltanet", "gla,attention")  # stacks, whose width is a multiple of two
WIDTH = 16  # of stacks, and of the mlp's embedding, where the carry is what is equal
MOST_ORDER, MOST_PRUNED_ORDER = 8, 6
WITHIN = 0.05  # of equal parameters


def net(kind: str, cost: str, size: int) -> ModelConfig:
    """The net of a kind, whose cost grows with `size`.

    That is the width, but where the carry is equal and a window is what is carried: there it is the tokens in
    the window, and the width is fixed.
    """
    by_carry = cost == "carry"
    match kind:
        case "mlp":
            width, tau = (4 * WIDTH, size) if by_carry else (size, 8)
            return ModelConfig(model="mlp", hidden_size=width, embedding_size=WIDTH, tau=tau)
        case "attention":
            width, window = (WIDTH, size) if by_carry else (size, 64)
            return ModelConfig(model="attention", hidden_size=width, num_heads=1, window=window)
        case "gated_deltanet":
            key_size = WIDTH // 2 if by_carry else 0
            return ModelConfig(model=kind, hidden_size=size, num_heads=1, key_size=key_size)
        case "gla,attention":
            width, window, key_size = (WIDTH, size, WIDTH // 2) if by_carry else (size, 64, 0)
            settings = {"hidden_size": width, "num_heads": 1, "window": window, "key_size": key_size}
            return ModelConfig(model="stack", layers=kind, **settings)
        case _:
            return ModelConfig(model=kind, hidden_size=size)


@lru_cache(maxsize=256)
def amounts(settings: ModelConfig, vocab_size: int) -> dict[str, int]:
    """Parameters, and bytes of the carry of one row, of a net that is not made for it."""
    model = build_model(settings, vocab_size)
    params = jax.eval_shape(model.init, jax.random.key(0))
    return {"parameters": count_parameters(params), "carry": carry_bytes(model, params)}


def nearest(amount: Callable[[int], int], wanted: int) -> int:
    """The n >= 1 of which a rising amount is nearest to what is wanted, by their ratio."""
    high = 1
    while amount(high) < wanted and high < 1 << 20:
        high *= 2
    low = max(high // 2, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if amount(middle) < wanted else (low, middle)
    return min((low, high), key=lambda n: abs(np.log(amount(n) / wanted)))


@lru_cache(maxsize=64)
def net_of(kind: str, cost: str, wanted: int, vocab_size: int) -> ModelConfig:
    """The net of a kind whose parameters, or bytes of carry, are nearest to `wanted`.

    Raises ValueError for parameters that are not within `WITHIN`.
    """
    multiple = 2 if kind in EVEN and net(kind, cost, 2).hidden_size == 2 else 1
    size = multiple * nearest(lambda n: amounts(net(kind, cost, multiple * n), vocab_size)[cost], wanted)
    settings = net(kind, cost, size)
    check_near(kind, cost, amounts(settings, vocab_size)[cost], wanted)
    return settings


def check_near(kind: str, cost: str, found: int, wanted: int) -> None:
    """Raise ValueError for parameters that are further off than `WITHIN`; a carry goes by the sizes."""
    if cost == "parameters" and abs(found / wanted - 1) > WITHIN:
        raise ValueError(
            f"expected num_parameters that each kind has within {WITHIN:.0%}, got {wanted}: the nearest "
            f"{kind} has {found}, choose another number"
        )


# Counts


def count_model(counts: Sequence[Any], streams: Mapping[str, np.ndarray], order: int, pruned: int) -> Any:
    """Losses in nats a character, and costs, of counts of an order without what occurs at most so often."""
    from lmseq.ngram.backoff import score_words
    from lmseq.ngram.counts import BOS_ID
    from lmseq.ngram.smoothing import modified_kneser_ney

    begun = time.process_time()
    prune = (0, *[pruned] * (order - 1))
    tables = modified_kneser_ney(counts[:order], discount_fallback=True, prune=prune).tables
    found: dict[str, Any] = {"order": order, "pruned": pruned, "cpu_seconds": time.process_time() - begun}
    found["parameters"] = sum(array.size for table in tables.orders for array in table)
    found["carry"] = 4 * (order - 1)
    for split in ("valid", "test"):
        kept = streams[split] != BOS_ID
        kept[-1] = False  # the end of the text, which no net predicts
        found[split] = -float(score_words(tables, streams[split])[kept].mean())
    return found


def best_counts(cost: str, wanted: float, streams: Mapping[str, np.ndarray], num_words: int) -> Any:
    """The counts of at most so many CPU seconds or bytes of carry, or of so many numbers: best on `valid`.

    Numbers are those of the tables, and are met by leaving out what is rare, in each order up to
    `MOST_PRUNED_ORDER`. CPU seconds are those of counting all orders and of estimating one. Raises ValueError
    where there are no such counts.
    """
    from lmseq.ngram.counts import count_ngrams

    begun = time.process_time()
    counts = count_ngrams(streams["train"], num_words, MOST_ORDER)
    counting = time.process_time() - begun
    found = []
    for order in range(2, (MOST_PRUNED_ORDER if cost == "parameters" else MOST_ORDER) + 1):
        least = count_model(counts, streams, order, 0)
        found.append(least)
        if cost == "parameters" and least["parameters"] > wanted:
            made = {0: least}

            def numbers(n: int, order: int = order, made: dict[int, Any] = made) -> int:
                if n not in made:
                    made[n] = count_model(counts, streams, order, n)
                return -made[n]["parameters"]

            found += [made[n] for n in _around(numbers, -wanted)]
    for each in found:
        each["cpu_seconds"] += counting
    held = {"seconds": "cpu_seconds"}.get(cost, cost)
    low = wanted * (1 - WITHIN) if cost == "parameters" else 0.0
    high = wanted * (1 + WITHIN) if cost == "parameters" else wanted
    fit = [each for each in found if low <= each[held] <= high]
    if not fit:
        close = min(found, key=lambda each: abs(np.log(max(each[held], 1e-9) / wanted)))
        raise ValueError(
            f"expected counts of {wanted} {cost}, the nearest have {close[held]}: choose another number"
        )
    return min(fit, key=lambda each: each["valid"])


def _around(rising: Callable[[int], float], wanted: float) -> tuple[int, int]:
    """The two neighbours n >= 0 between which a rising amount passes what is wanted."""
    high = 1
    while rising(high) < wanted and high < 1 << 20:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return low, high

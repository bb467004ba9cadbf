"""Small texts for count models, and every quantity of them by its definition, over dictionaries."""

import math
from collections import Counter, defaultdict

import numpy as np
from hypothesis import strategies as st

from lmseq.ngram.backoff import BackoffTables
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, mark_sentences

V = FIRST_WORD_ID + 3
Gram = tuple[int, ...]
word_ids = st.integers(FIRST_WORD_ID, V - 1)
sentences = st.lists(st.lists(word_ids, max_size=7), min_size=1, max_size=8)


def marked(texts) -> np.ndarray:
    return mark_sentences([np.array(text, np.int32) for text in texts])


def ngrams_of(texts, n: int) -> Counter:
    """Every window of every sentence with its marks."""
    whole = [(BOS_ID, *text, EOS_ID) for text in texts]
    return Counter(s[i : i + n] for s in whole for i in range(len(s) - n + 1))


def spelled(prefixes, words) -> list[list[Gram]]:
    """The words of each entry of each order, followed down the prefixes."""
    names: list[list[Gram]] = [[()]]
    for prefix, word in zip(prefixes, words, strict=True):
        names.append([(*names[-1][p], int(w)) for p, w in zip(prefix, word, strict=True)])
    return names[1:]


def dictionaries(tables: BackoffTables) -> list[dict[Gram, tuple[float, float]]]:
    """Order by order: ln p and ln of the back-off weight, by n-gram."""
    prefixes = [np.repeat(np.arange(len(t.first) - 1), np.diff(t.first)) for t in tables.orders]
    names = spelled(prefixes, [t.word for t in tables.orders])
    found = []
    for name, table in zip(names, tables.orders, strict=True):
        backoffs = table.log_backoff if len(table.log_backoff) else np.zeros(len(table.word))
        pairs = zip(table.log_prob.tolist(), backoffs.tolist(), strict=True)
        found.append(dict(zip(name, pairs, strict=True)))
    return found


def looked_up(entries: list[dict[Gram, tuple[float, float]]], word: int, context: Gram) -> float:
    """p(w | context): the longest entry seen, times the back-off weights of longer contexts."""
    log_weight = 0.0
    for start in range(len(context) + 1):
        seen, gram = context[start:], (*context[start:], word)
        if len(gram) <= len(entries) and gram in entries[len(gram) - 1]:
            return math.exp(log_weight + entries[len(gram) - 1][gram][0])
        if seen and len(seen) <= len(entries):
            log_weight += entries[len(seen) - 1].get(seen, (0.0, 0.0))[1]
    raise AssertionError("every word has a unigram")


class ByDefinition:
    """Counts, adjusted counts, and the interpolated estimators, one n-gram at a time."""

    def __init__(self, texts, order: int) -> None:
        self.order = order
        counts = {n: ngrams_of(texts, n) for n in range(1, order + 2)}
        self.raw: dict[Gram, int] = {}
        self.adjusted: dict[Gram, int] = {}
        for n in range(1, order + 1):
            for gram, count in counts[n].items():
                whole = n == order or gram[0] == BOS_ID
                self.raw[gram] = count
                left = {longer[0] for longer in counts[n + 1] if longer[1:] == gram}
                self.adjusted[gram] = count if whole else len(left)
        self.raw[BOS_ID,] = self.adjusted[BOS_ID,] = 0
        self.after = defaultdict(list)
        for gram in self.raw:
            self.after[gram[:-1]].append(gram)

    def numbers(self, taken: dict[Gram, int], n: int) -> list[int]:
        """t_1 ... t_4 of an order."""
        tally = Counter(a for gram, a in taken.items() if len(gram) == n)
        return [tally[k] for k in (1, 2, 3, 4)]

    def interpolated(self, taken, discounts, word: int, context: Gram, spread=None) -> float:
        """(a - d(a)) / S + (sum of d) / S p(w | h'); `spread` shares what unigrams leave."""
        context = context[max(0, len(context) - self.order + 1) :]
        if word == BOS_ID:
            return 0.0

        def discount(gram: Gram) -> float:
            return (0.0, *discounts[len(gram) - 1])[min(taken[gram], 3)]

        gram, total = (*context, word), sum(taken[other] for other in self.after[context])
        own = (taken[gram] - discount(gram)) / total if total and taken.get(gram) else 0.0
        freed = sum(map(discount, self.after[context])) / total if total else 1.0
        if context:
            return own + freed * self.interpolated(taken, discounts, word, context[1:], spread)
        return own + freed * (1.0 / (V - 1) if spread is None else spread(word))

    def added(self, amounts, word: int, context: Gram, straight: bool = False) -> float:
        """(n(hw) + e p(w | h')) / (n(h) + e), e = amounts(order, distinct words after h)."""
        context = context[max(0, len(context) - self.order + 1) :]
        if word == BOS_ID:
            return 0.0
        total = sum(self.raw[gram] for gram in self.after[context])
        distinct = sum(self.raw[gram] > 0 for gram in self.after[context])
        e, number = amounts(len(context) + 1, distinct), self.raw.get((*context, word), 0)
        if not context:
            return (number + e / (V - 1)) / (total + e)
        lower = self.added(amounts, word, () if straight else context[1:], straight)
        return (number + e * lower) / (total + e) if total + e else lower


def contexts(order: int) -> list[Gram]:
    """Histories seen and unseen, from a sentence's beginning and from within."""
    some = [(), (BOS_ID,), (3,), (BOS_ID, 3), (3, 4), (4, 4), (BOS_ID, 3, 3), (5, 3, 4)]
    return [context for context in some if len(context) < order]

"""Groups whose word problem has to be tracked: elements, generators, and the products of a sequence.

A group is made of permutations of a few things. A sequence is made of its generators, drawn at random, and
the answer after each token is the product of all so far (Merrill, Petty and Sabharwal 2024). Few generators
make it a task that a small net can learn within minutes. Of A5 it is as hard as any of NC1 all the same.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

Permutation = tuple[int, ...]  # the image of each thing

# Of two things: bits. Of three: nothing, or a swap of neighbours. Of five: a cycle of all, with one of three,
# which make the 60 even permutations, or with a swap, which make all 120. In none do steps alone tell a part
# of the answer, as the number of swaps would its sign.
GENERATORS: dict[str, tuple[Permutation, ...]] = {
    "parity": ((0, 1), (1, 0)),
    "S3": ((0, 1, 2), (1, 0, 2), (0, 2, 1)),
    "A5": ((1, 2, 3, 4, 0), (1, 2, 0, 3, 4)),
    "S5": ((1, 2, 3, 4, 0), (1, 0, 2, 3, 4)),
}


class Group(NamedTuple):
    """The elements by their numbers, of which the identity is 0; generators in the order of GENERATORS.

    after[a, i] is the element that follows a when generator i comes.
    """

    elements: tuple[Permutation, ...]
    after: Integer[np.ndarray, "state number"]

    @property
    def num_generators(self) -> int:
        """How many different tokens a sequence has."""
        return self.after.shape[1]


def then(first: Permutation, second: Permutation) -> Permutation:
    """The permutation that applies the first, then the second."""
    return tuple(second[image] for image in first)


def group_named(name: str) -> Group:
    """What the generators of that name make, by breadth-first search. ValueError for another name."""
    if name not in GENERATORS:
        raise ValueError(f"expected tasks out of {', '.join(GENERATORS)}, got {name!r}")
    generators = GENERATORS[name]
    elements = [tuple(range(len(generators[0])))]
    for element in elements:  # which grows meanwhile
        reached = (then(element, generator) for generator in generators)
        elements += [each for each in reached if each not in elements]
    number = {element: place for place, element in enumerate(elements)}
    after = [[number[then(element, generator)] for generator in generators] for element in elements]
    return Group(tuple(elements), np.array(after, np.int32))


def products(group: Group, tokens: Integer[np.ndarray, "rows time"]) -> Integer[np.ndarray, "rows time"]:
    """The number of the product of the first 1, 2, ..., T generators of each row (B, T)."""
    answers = np.empty_like(tokens)
    state = np.zeros(len(tokens), np.int32)
    for step in range(tokens.shape[1]):
        state = group.after[state, tokens[:, step]]
        answers[:, step] = state
    return answers

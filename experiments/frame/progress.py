"""Bars of steps on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def steps_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` steps, shown on a terminal only; yields a function that moves it to a step."""
    with tqdm(total=total, unit=" steps", leave=False, disable=not sys.stderr.isatty()) as bar:
        yield lambda step: bar.update(step - bar.n)

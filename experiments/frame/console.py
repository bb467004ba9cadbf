"""What scripts say: lines of progress on stderr, and lists in words."""

import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm


def say(line: str) -> None:
    """A line of progress, to stderr, above the progress bar if there is one; stdout is for results.

    Where it cannot be written, as to a full disk, the work goes on without it.
    """
    try:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        pass


_hear: list[Callable[[str], None]] = []  # who is told of mistakes, where it is not the user


def complain(mistake: str) -> None:
    """A user's mistake, in one line: to stderr, or to whoever says it for this process."""
    line = " ".join(mistake.split())[:1000]
    if _hear:
        _hear[-1](line)
    else:
        say(f"error: {line}")


def hand_mistakes_to(hear: Callable[[str], None]) -> None:
    """From now on mistakes are not said here: `hear` is called with the line."""
    _hear.append(hear)


def listed(symbols: Sequence[str]) -> str:
    """The first ten of some characters or words, as Python would write them."""
    return ", ".join(map(repr, symbols[:10])) + (
        f" and {len(symbols) - 10} more" if len(symbols) > 10 else ""
    )


def numbers(text: str, name: str) -> list[int]:
    """Positive integers separated by commas; ValueError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"expected --{name}=1,2,... as positive numbers, got {text!r}")
    return [int(part) for part in parts]

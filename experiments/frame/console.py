"""What scripts say: lines of progress on stderr, and lists in words."""

import sys
from collections.abc import Sequence

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

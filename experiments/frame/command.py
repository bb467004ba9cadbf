"""A command: what it takes from the command line, and a user's mistake as one line and exit status 2."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from absl import flags

from experiments import ENDED
from experiments.frame.console import complain, say
from experiments.frame.flags import Given, define, help_text, parse

USER_ERRORS = (ValueError, ArithmeticError, OSError, MemoryError)
MISTAKE, PIPE_CLOSED = 2, 128 + signal.SIGPIPE
HINTS = {
    errno.ENOSPC: "make room, then give the same command again",
    errno.EACCES: "allow reading and writing there, or name another folder",
    errno.EROFS: "name a folder that can be written to",
    errno.ENOTDIR: "a file stands where a folder should: name another",
    errno.EEXIST: "a file stands where a folder should: name another",
    errno.EISDIR: "a folder stands where a file should: move it away",
}
KEEP_PROGRAMS = "compilation_cache"


class StoppedError(Exception):
    """A signal stopped the work, and all is saved; `status` is the exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.status = 128 + number


class Command(NamedTuple):
    """What `python -m MODULE` does.

    doc: its help. options: a class of knobs, one flag each. act: the work, of the options and of the flags as
    they were given; returns the exit status.
    """

    doc: str
    options: type
    act: Callable[[Any, Given], int | None]


def attempt(
    act: Callable[[Given], int | None],
    doc: str,
    found: flags.FlagValues,
    names: Sequence[str],
    arguments: Sequence[str],
) -> int:
    """Parse a command line and do the work; the exit status, with a mistake said in one line."""
    meaning = "keep compiled programs in the user's cache folder"
    flags.DEFINE_bool(KEEP_PROGRAMS, True, meaning, flag_values=found)
    try:
        if asks_for_help(found, arguments):
            print(help_text(doc, found, [*names, KEEP_PROGRAMS]))
            return 0
        return act(parse(found, arguments)) or 0
    except StoppedError as stopped:
        return stopped.status
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        return PIPE_CLOSED
    except (flags.Error, *USER_ERRORS) as error:
        hint = HINTS.get(getattr(error, "errno", None))
        return _mistake(str(error) + (f": {hint}" if hint else ""))
    except KeyboardInterrupt:
        say("interrupted")
        return 128 + signal.SIGINT
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _mistake(
            "more memory was asked for than there is: make the model, the batch or the samples smaller"
        )


def asks_for_help(found: flags.FlagValues, arguments: Sequence[str]) -> bool:
    """Whether a command line has --help or --helpfull, or -h where it is not the value of the flag before."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--help", "--helpfull", "-h"):
            return True
        name = argument.lstrip("-")
        takes_value = argument.startswith("-") and name in found and not found[name].boolean
        if takes_value and next(rest, None) in ("--help", "--helpfull"):
            return True
    return False


def _mistake(reason: str) -> int:
    complain(reason)
    return MISTAKE


def _unraisable(args: Any) -> None:
    """Leave out what the checkpoint writer's callbacks would print after it has failed and said so."""
    if str(args.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(args)


def end(attempted: Callable[[Sequence[str]], int]) -> None:
    """Try with this process's arguments, and end it with the status that comes of it."""
    sys.unraisablehook = _unraisable
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # of what a terminal cannot show
    status = attempted(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = PIPE_CLOSED
    except OSError as error:
        status = _mistake(f"cannot write to stdout: {error.strerror}")
    if status in (MISTAKE, PIPE_CLOSED):
        # Not sys.exit: what libraries registered for the end would fail on a full disk again.
        os._exit(status)
    ENDED.append(status)
    sys.exit(status)


def attempt_command(command: Command, arguments: Sequence[str]) -> int:
    """The exit status of a command with these arguments."""
    found = flags.FlagValues()
    names = define(command.options, found)

    def act(given: Given) -> int | None:
        return command.act(command.options(**{name: given.values[name] for name in names}), given)

    return attempt(act, command.doc, found, names, arguments)


def main(command: Command) -> None:
    """What `python -m MODULE` does, to the end of the process."""
    end(partial(attempt_command, command))


def main_with_flags(act: Callable[[], int | None], doc: str, names: Sequence[str]) -> None:
    """The same for a module that defines flags of absl's own, as benchmarks do."""
    end(partial(attempt, lambda given: act(), doc, flags.FLAGS, names))

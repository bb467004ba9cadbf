"""Asking a model: prompts that a user types, answers shown while they are drawn, a carry that is kept."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame.console import say
from lmseq import generation
from lmseq.data.tokens import Vocab
from lmseq.generation import PIECE
from lmseq.runs import Run
from lmseq.sampling import Decoding
from lmseq.types import Carry

SECONDS_A_PIECE = 0.04  # a piece grows until it takes as long: what is shorter looks like flowing text
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for the beginning of a character's bytes


class Answering(NamedTuple):
    """How answers are drawn: from which run, how long, where they end."""

    run: Run
    decoding: Decoding
    never: tuple[int, ...]
    num_tokens: int
    stops: tuple[str, ...]
    seed: int
    tables: Any  # of `generation.prepare_draws`


class Answer(NamedTuple):
    """What was drawn: ids (T,), their log-probabilities in nats, the carry after them, and the seconds."""

    tokens: np.ndarray
    log_probs: np.ndarray
    carry: Carry
    first_token_seconds: float
    seconds: float


class Spelling:
    """The text of ids that come bit by bit, where a character may take several of them."""

    def __init__(self, vocab: Vocab, before: Sequence[int]) -> None:
        self._vocab = vocab
        # The last one: white space between words belongs to neither of the two.
        self._ids = list(before[-1:])
        self._shown = len(self._text())

    def _text(self) -> str:
        return self._vocab.decode(np.array(self._ids, np.int32))

    def add(self, ids: Sequence[int], *, is_end: bool = False) -> str:
        """What more can be shown; at the end, also what is no whole character."""
        self._ids += list(ids)
        text = self._text()
        # At most three bytes of a character can be there without the last.
        held = 0 if is_end else min(3, len(text) - len(text.rstrip(UNFINISHED)))
        ready = max(self._shown, len(text) - held)
        more, self._shown = text[self._shown : ready], ready
        if not held and len(self._ids) > 64:
            self._ids = self._ids[-1:]
            self._shown = len(self._text())
        return more


class Ending:
    """Looks for the first of some stop texts in what is drawn."""

    def __init__(self, vocab: Vocab, before: Sequence[int], stops: Sequence[str]) -> None:
        self._spelling, self._stops = Spelling(vocab, before), stops
        self._text, self._longest = "", max(map(len, stops), default=0)

    def cut(self, ids: Sequence[int]) -> tuple[int, bool]:
        """How many of the next ids (T,) there are up to the token that completes a stop text, and whether."""
        for number, token in enumerate(ids if self._stops else (), 1):
            self._text += self._spelling.add([token])
            if any(stop in self._text for stop in self._stops):
                return number, True
            self._text = self._text[max(0, len(self._text) - self._longest + 1) :]
        return len(ids), False


def read(run: Run, carry: Carry, ids: np.ndarray) -> Carry:
    """The carry after ids (T,), for any T with one program."""
    for begin in range(0, len(ids), PIECE):
        part = ids[begin : begin + PIECE]
        padded = np.zeros(PIECE, np.int32)
        padded[: len(part)] = part
        carry = generation.read_piece(run.model, run.params, carry, padded, len(part))
    return carry


def answer(
    asked: Answering,
    carry: Carry,
    before: np.ndarray,
    turn: int,
    show: Callable[[str], None],
    is_stopped: Callable[[], bool] = lambda: False,
) -> Answer:
    """Draw and show an answer, piece by piece, until it is long enough, has a stop text or is interrupted.

    carry: after the prompt, whose last ids are `before`. The next piece is drawn while one is shown. The
    first turn's tokens are those that `generation.sample_streams` draws with the seed.
    """
    run = asked.run
    key = jax.random.key(asked.seed)
    key = jax.random.fold_in(key, turn + 1) if turn else key  # 1 is `draw_chances`' own
    chances = generation.draw_chances(key, asked.num_tokens, 1, asked.never, asked.tables)

    def draw(carry: Carry, begin: int, number: int) -> generation.Piece:
        given = run.model, run.params, asked.tables, carry, chances
        return generation.draw_piece(*given, begin, number, asked.decoding, asked.never)

    spelling, ending = Spelling(run.vocab, before), Ending(run.vocab, before, asked.stops)
    found, log_probs, number, first = [], [], 1, 0.0
    started = last = time.monotonic()
    piece, took = draw(carry, 0, 1), 0.0
    while True:
        longer = min(2 * number, PIECE) if took < SECONDS_A_PIECE else number
        left = asked.num_tokens - len(found) - number
        ahead = draw(piece.carry, len(found) + number, min(longer, left)) if left else None
        ids = np.asarray(piece.tokens)[:number].tolist()
        kept, is_over = ending.cut(ids)
        is_over = is_over or ahead is None or is_stopped()
        found += ids[:kept]
        log_probs.append(np.asarray(piece.log_probs)[:kept])
        show(spelling.add(ids[:kept], is_end=is_over))
        now = time.monotonic()
        first, took, last = first or now - started, now - last, now
        if is_over:
            break
        carry, piece, number = piece.carry, ahead, min(longer, left)
    end = piece.carry if kept == number else read(run, carry, np.array(ids[:kept], np.int32))
    return Answer(np.array(found, np.int32), np.concatenate(log_probs), end, first, now - started)


class Interrupts:
    """Within it, Ctrl-C drops the line that is being typed, or is noted and ends an answer, and no more."""

    def __init__(self) -> None:
        self.came, self._is_typing = False, False

    def __enter__(self) -> "Interrupts":
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, *signal_and_frame: Any) -> None:
        if self._is_typing:
            raise KeyboardInterrupt
        self.came = True

    def typed_lines(self) -> Iterator[str]:
        """Lines that the user types, until the end of the input; from a pipe, its lines."""
        if not sys.stdin.isatty():
            for line in sys.stdin:
                self.came = False
                yield line.rstrip("\n")
            return
        with suppress(ImportError):  # gives input() its editing and its history, where the system has it
            import_module("readline")
        while True:
            try:
                with _awake():
                    self._is_typing = True
                    line = input("> ")
                    self._is_typing = self.came = False
                yield line
            except KeyboardInterrupt:
                self._is_typing = False  # so that a second one does not end the program
                print()
            except EOFError:
                self._is_typing = False
                print()
                return


@contextmanager
def _awake() -> Iterator[None]:
    """Within it, the main thread is woken ten times a second, and runs the handlers of signals that came.

    The line editor sleeps until a key or a signal comes. A signal that comes just before it falls asleep, or
    that another thread receives, would wait for the next key.
    """
    before = signal.signal(signal.SIGALRM, lambda *signal_and_frame: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def show_piece(text: str) -> None:
    """Write a part of an answer at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def converse(asked: Answering, encode: Callable[[str], np.ndarray], context: np.ndarray) -> dict[str, Any]:
    """Answer each line, the carry going on from turn to turn; the figures of all turns.

    encode: ids of a prompt, ValueError for what the vocabulary lacks. context: ids read before the first
    turn. A line is read as it is typed, without its end; after an empty one the answer goes on.
    """
    run = asked.run
    carry = read(run, run.model.init_carry(run.params, 1), context)
    answer(asked, carry, context, 0, lambda text: None, lambda: True)  # compiles the programs
    say("type a text to go on with; nothing: go on; Ctrl-C ends an answer, Ctrl-D ends this")
    turns, before = [], context
    with Interrupts() as interrupts:
        for line in interrupts.typed_lines():
            try:
                prompt = encode(line)
            except ValueError as error:
                say(str(error))
                continue
            begun = time.monotonic()
            before = np.concatenate([before, prompt])[-PIECE:]
            turn, carry = len(turns), read(run, carry, prompt)
            found = answer(asked, carry, before, turn, show_piece, lambda: interrupts.came)
            print(flush=True)
            carry, before = found.carry, np.concatenate([before, found.tokens])[-PIECE:]
            first = time.monotonic() - begun - found.seconds + found.first_token_seconds
            log_likelihood = float(found.log_probs.sum(dtype=np.float64))
            turns.append((found.tokens.size, log_likelihood, first, found.seconds))
    numbers, log_likelihoods, firsts, seconds = zip(*turns, strict=True) if turns else ((), (), (), ())
    return {
        "num_turns": len(turns),
        "num_tokens": sum(numbers),
        "log_likelihood": sum(log_likelihoods),
        "first_token_ms": 1e3 * float(np.median(firsts)) if turns else None,
        "tokens_per_second": sum(numbers) / sum(seconds) if turns else None,
    }

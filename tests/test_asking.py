"""Asking a model: pieces against the scan, stop texts, what the carry has seen, and a real terminal."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.text.asking import Answering, Ending, Interrupts, Spelling, answer, read
from lmseq import generation
from lmseq.data.tokens import Vocab, build_vocab
from lmseq.runs import Run
from lmseq.sampling import Decoding
from tests.oracles import small
from tests.scripts import SMALL, command, strict_json

WORDS = build_vocab("a b c\nb a\n", level="word")
BPE = build_vocab("the héron and the thé, the\n" * 3, level="bpe", bpe_vocab_size=270)
PROMPT = np.array([1, 0, 2], np.int32)


def asked(kind="gru", num_tokens=40, stops=(), vocab=None, decoding=Decoding(), never=()):
    vocab = vocab or Vocab("char", tokens=("<unk>", "a", "b"))
    model, params = small(kind, len(vocab))
    tables = generation.prepare_draws(model, params, decoding)
    return Answering(Run(None, vocab, model, params), decoding, never, num_tokens, stops, 3, tables)


def begin(asking: Answering, prompt=PROMPT):
    run = asking.run
    return read(run, run.model.init_carry(run.params, 1), prompt)


@pytest.mark.parametrize("kind", ["gru", "mlp", "neural cache", "trigram of lines"])
@pytest.mark.parametrize("never", [(), (0,)])
def test_pieces_are_what_one_scan_draws(kind, never):
    asking = asked(kind, num_tokens=1100, never=never)  # more than one piece holds
    shown = []
    found = answer(asking, begin(asking), PROMPT, 0, shown.append)
    run, key = asking.run, jax.random.key(3)
    whole = generation.sample_streams(
        key, run.model, run.params, PROMPT, num_samples=1, num_tokens=1100, never=never
    )
    assert np.array_equal(found.tokens, whole.tokens[0]) and len(shown) > 5
    np.testing.assert_allclose(found.log_probs, whole.log_probs[0], rtol=1e-4, atol=1e-5)
    assert "".join(shown) == run.vocab.decode(found.tokens)


def test_turns_draw_other_numbers_and_greedy_none():
    asking = asked(num_tokens=30)
    carry = begin(asking)
    first, second, again = (answer(asking, carry, PROMPT, turn, len).tokens.tolist() for turn in (0, 1, 1))
    assert first != second == again
    greedy = asking._replace(decoding=Decoding(temperature=0.0))
    assert [answer(greedy, carry, PROMPT, turn, len).tokens.tolist() for turn in (0, 1)] == (
        2 * [answer(greedy, carry, PROMPT, 0, len).tokens.tolist()]
    )


def leaves_agree(one, other):
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ended_by", ["length", "stop", "interrupt"])
def test_the_carry_has_seen_what_was_shown_and_no_more(ended_by):
    asking = asked(num_tokens=100, stops=("ab",) if ended_by == "stop" else ())
    shown, pieces = [], iter(range(100))
    stopped = {"interrupt": lambda: next(pieces) == 3}.get(ended_by, lambda: False)
    found = answer(asking, begin(asking), PROMPT, 0, shown.append, stopped)
    text = "".join(shown)
    assert text == asking.run.vocab.decode(found.tokens) and found.log_probs.shape == found.tokens.shape
    assert len(found.tokens) < 100 or ended_by == "length"
    if ended_by == "stop":
        assert text.endswith("ab") and "ab" not in text[:-1]
    leaves_agree(found.carry, begin(asking, np.concatenate([PROMPT, found.tokens])))


@given(st.text(st.sampled_from("aé€\U0001f600 b"), max_size=40), st.data())
def test_characters_are_shown_when_they_are_whole(text, data):
    """However bytes are cut, what is shown is the text, and never half a character."""
    vocab = Vocab("byte")
    ids = vocab.encode(text).tolist() + data.draw(st.sampled_from([[], [0xE2], [0xFF, 0x61]]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    spelling, shown = Spelling(vocab, []), []
    for left, right in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        shown.append(spelling.add(ids[left:right]))
        assert text.startswith("".join(shown)) or right > len(text.encode())
    shown.append(spelling.add([], is_end=True))
    assert "".join(shown) == vocab.decode(ids)


@pytest.mark.parametrize("vocab", [WORDS, BPE], ids=["word", "bpe"])
def test_long_answers_are_spelt_as_decode_spells_them(vocab):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, len(vocab), 400).tolist()
    spelling = Spelling(vocab, ids[:1])
    shown = "".join(
        [*(spelling.add(ids[i : i + 7]) for i in range(1, 400, 7)), spelling.add([], is_end=True)]
    )
    before, whole = vocab.decode(ids[:1]), vocab.decode(ids)
    if vocab is WORDS:
        assert before + shown == whole
    else:  # what is no UTF-8 may be replaced by more or fewer marks where a long text is spelt in parts
        assert re.sub("�+", "�", before + shown) == re.sub("�+", "�", whole)


@given(
    st.text(st.sampled_from("abé"), max_size=30), st.sampled_from(["a", "ab", "éb", "bab", "aé"]), st.data()
)
def test_an_answer_ends_where_a_stop_text_is_complete(text, stop, data):
    """Wherever the pieces are cut, and whether a character is one token or two."""
    vocab = data.draw(st.sampled_from([Vocab("byte"), Vocab("char", tokens=("<unk>", "a", "b", "é"))]))
    ids = vocab.encode(text).tolist()
    place = text.find(stop)
    expected = len(vocab.encode(text[: place + len(stop)])) if place >= 0 else len(ids)
    ending, total = Ending(vocab, [], (stop, "zz")), 0
    size = data.draw(st.integers(1, 9))
    for left in range(0, len(ids), size):
        number, is_over = ending.cut(ids[left : left + size])
        total += number
        if is_over:
            break
    assert total == expected


@pytest.fixture(scope="module")
def run(tmp_path_factory, scripts):
    workdir = tmp_path_factory.mktemp("asked") / "run"
    corpus = workdir.parent / "text.txt"
    corpus.write_text("the tide is out, and the tide is in again.\n" * 200)
    scripts.summary("train_lm", f"--workdir={workdir}", f"--corpus={corpus}", *SMALL, "--num_train_steps=20")
    return workdir


def test_lines_of_a_pipe_are_answered_one_by_one(run, processes, scripts, tmp_path):
    (tmp_path / "context.txt").write_text("the tide ")
    flags = [f"--run={run}", f"--prompt_file={tmp_path / 'context.txt'}", "--num_tokens=30"]
    done = processes.run("sample_text", *flags, "--interactive", input="is\n\nthe X\nout")
    assert done.returncode == 0 and "lacks: 'X'" in done.stderr
    found = strict_json(done.stdout.splitlines()[-1])
    assert found["num_turns"] == 3 and found["num_tokens"] == 90 and found["first_token_ms"] > 0
    # The first answer is the sample of the same prompt.
    (tmp_path / "context.txt").write_text("the tide is")
    (sample,) = scripts.summary("sample_text", *flags)["samples"]
    assert done.stdout.startswith(sample["text"].removeprefix("the tide is"))


def test_a_line_that_is_no_text_is_one_line_and_the_next_is_answered(run, processes):
    flags = [f"--run={run}", "--num_tokens=5", "--interactive"]
    env = processes.env | {"PYTHONIOENCODING": "utf-8:surrogateescape"}
    whole = command("sample_text", *flags)
    done = subprocess.run(whole, input=b"the \xff\nthe\n", env=env, capture_output=True, timeout=240)
    assert done.returncode == 0 and b"not UTF-8" in done.stderr
    assert strict_json(done.stdout.decode().splitlines()[-1])["num_turns"] == 1


def test_an_interrupt_ends_one_answer_of_a_pipe(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    with Interrupts() as interrupts:
        seen = []
        for line in interrupts.typed_lines():
            seen.append((line, interrupts.came))
            signal.raise_signal(signal.SIGINT)
            assert interrupts.came
    assert seen == [("a", False), ("b", False)]


def test_stop_texts_end_samples_too(run, scripts):
    flags = [f"--run={run}", "--prompt=the ", "--num_samples=6", "--num_tokens=60"]
    whole = scripts.summary("sample_text", *flags)["samples"]
    cut = scripts.summary("sample_text", *flags, "--stop=t", "--stop= a")["samples"]
    for long, short in zip(whole, cut, strict=True):
        ends = [place + len(stop) for stop in ("t", " a") if (place := long["text"].find(stop, 4)) >= 0]
        assert short["text"] == long["text"][: min(ends, default=None)]
        assert short["num_tokens"] == len(short["text"]) - 4


BAD = [
    ("--prompt=a --prompt_file={folder}/text.txt", "either --prompt or --prompt_file"),
    ("--prompt_file={folder}/none.txt", "none.txt"),
    ("--interactive --beam_size=2", "--beam_size"),
    ("--interactive --num_samples=2", "--num_samples"),
    ("--interactive --num_tokens=0", "num_tokens"),
    ("--stop=", "--stop"),
    ("--beam_size=2 --stop=a", "--stop"),
]


@pytest.mark.parametrize("flags, says", BAD)
def test_what_does_not_go_together_is_one_line(run, scripts, flags, says):
    done = scripts.attempt("sample_text", f"--run={run}", *flags.format(folder=run.parent).split())
    assert done.returncode == 2 and says in done.stderr and not done.stdout


def wait_for(terminal: int, what: str, seconds: float = 240.0, must: bool = True) -> str:
    """What a terminal shows up to a text, or, where it need not come, until it is over."""
    shown, until = "", time.monotonic() + seconds
    while what not in shown and (must or time.monotonic() < until):
        assert time.monotonic() < until, shown
        if select.select([terminal], [], [], 0.5)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def end_input(terminal: int, what: str) -> str:
    """Type Ctrl-D until a text is shown: what is typed before the line editor is ready is lost."""
    shown, until = "", time.monotonic() + 240.0
    while what not in shown:
        assert time.monotonic() < until, shown
        os.write(terminal, b"\x04")
        shown += wait_for(terminal, "\n", seconds=2.0, must=False)
    return shown


OTHER_THREAD_GETS_IT = """
import signal, threading, time
from experiments.text.asking import Interrupts

def interrupt():
    while not interrupts._is_typing:
        time.sleep(0.01)
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

with Interrupts() as interrupts:
    threading.Thread(target=interrupt).start()
    print(list(interrupts.typed_lines()), "is all")
"""


def test_an_interrupt_that_does_not_wake_the_line_editor_is_seen(processes):
    """No key is needed for it; one that comes just before the editor falls asleep is such a one too."""
    ours, theirs = pty.openpty()
    settings = {"env": processes.env | {"TERM": "dumb"}, "start_new_session": True}
    whole = [sys.executable, "-c", OTHER_THREAD_GETS_IT]
    done = subprocess.Popen(whole, stdin=theirs, stdout=theirs, stderr=theirs, **settings)
    try:
        os.close(theirs)
        wait_for(ours, "> ")
        wait_for(ours, "\r\n> ", seconds=20.0)
        os.write(ours, b"a\n")
        assert "['a'] is all" in end_input(ours, "is all")
        assert done.wait(60) == 0
    finally:
        done.kill()
        done.wait()
        os.close(ours)


def test_a_terminal(run, processes):
    """Ctrl-C ends an answer, the program goes on, and the end of the input ends it."""
    ours, theirs = pty.openpty()
    flags = [f"--run={run}", "--interactive", "--num_tokens=1000000"]
    whole = command("sample_text", *flags)
    settings = {"env": processes.env | {"TERM": "dumb"}, "start_new_session": True}
    done = subprocess.Popen(whole, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, **settings)
    try:
        os.close(theirs)
        wait_for(ours, "> ")
        os.write(ours, b"the tide\n")
        wait_for(ours, "the tide\r\n")
        assert select.select([ours], [], [], 240)[0], "something is shown long before the answer ends"
        os.kill(done.pid, signal.SIGINT)
        wait_for(ours, "\r\n> ")
        os.write(ours, b"half a line")
        wait_for(ours, "line")
        os.kill(done.pid, signal.SIGINT)
        wait_for(ours, "> ")
        shown = end_input(ours, "}\r\n")
        assert done.wait(240) == 0
        summary = json.loads(shown.strip().splitlines()[-1])
        assert summary["num_turns"] == 1 and 0 < summary["num_tokens"] < 1_000_000
    finally:
        done.kill()
        done.wait()
        os.close(ours)

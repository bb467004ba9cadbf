"""Sample continuations of a prompt from a trained model, or search for the likeliest with a beam.

    python -m experiments.sample_text --run=runs/demo --prompt="Class " --num_samples=4
    python -m experiments.sample_text --run=runs/demo --prompt="Class " --beam_size=8 --num_tokens=40
    python -m experiments.sample_text --run=runs/demo --interactive --stop="."

Each continuation is printed with log P(continuation | prompt) in nats under the model itself, whatever
temperature or truncation chose its tokens. With --interactive, prompts are typed, or are the lines of a pipe,
and answers are shown while they are drawn; the model goes on from all that was said before. The last line is
a JSON object.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import say
from experiments.frame.flags import Given
from experiments.text.prompts import encode_prompt
from lmseq.config.knobs import at_least, knob
from lmseq.data.corpora import read_text
from lmseq.files import to_json


@dataclass(frozen=True)
class SampleOptions:
    """What is sampled, from which model, and how."""

    run: str = knob(
        "",
        "folder of a run of train_lm (also DIR:best, DIR:STEP) or train_ngram, or an ARPA file or pipe",
        is_path=True,
    )
    checkpoint: Literal["latest", "best"] = knob("latest", "the last parameters, or the best by validation")
    prompt: str = knob("", "text to continue; empty: from the beginning")
    prompt_file: str = knob("", "a UTF-8 file whose text is continued", is_path=True)
    interactive: bool = knob(False, "ask again and again: prompts are typed, answers shown as they are drawn")
    stop: tuple[str, ...] = knob((), "a text that ends a continuation early; give it several times for more")
    num_samples: int = knob(1, "continuations")
    num_tokens: int = knob(200, "tokens of each")
    temperature: float = knob(1.0, "logits are divided by it; 0: greedy")
    top_k: int = knob(0, "only the k likeliest tokens; 0: all")
    top_p: float = knob(1.0, "only the likeliest tokens that together have this probability")
    greedy: bool = knob(False, "always the likeliest token; the same as temperature 0")
    beam_size: int = knob(0, "beam search with this many prefixes instead of sampling; 0: sample")
    allow_unknown: bool = knob(False, "also choose <unk>, what stands for unknown characters or words")
    seed: int = knob(0, "the same seed gives the same samples")


CHANCE = ("temperature", "top_k", "top_p")  # flags of a random choice


def read_decoding(options: SampleOptions, given: Given) -> Any:
    """How tokens are chosen, a `Decoding`; ValueError for flags out of range or against each other."""
    named = [f"--{name}" for name in CHANCE if name in given.names]
    at_least(0, beam_size=options.beam_size, seed=options.seed)
    if options.greedy and (named or options.beam_size):
        raise ValueError(f"--greedy contradicts {' '.join(named) or '--beam_size'}: give one of them")
    if options.temperature == 0.0 and len(named) > 1:
        raise ValueError("--temperature=0 is greedy and contradicts --top_k and --top_p: give one of them")
    if "seed" in given.names and (options.greedy or options.temperature == 0.0):
        raise ValueError("--seed does nothing where the likeliest token is taken: leave it out")
    named += ["--seed"] * ("seed" in given.names)
    random = named + ["--num_samples"] * ("num_samples" in given.names)
    if options.beam_size and random:
        raise ValueError(f"--beam_size does not sample and contradicts {' '.join(random)}: give one of them")
    if options.beam_size and options.stop:
        raise ValueError(
            "--beam_size compares continuations of one length and contradicts --stop: leave one out"
        )
    several = "--beam_size" if options.beam_size else "--num_samples" * ("num_samples" in given.names)
    if options.interactive and several:
        raise ValueError(
            f"--interactive gives one answer to each prompt and contradicts {several}: leave it out"
        )
    from lmseq.sampling import Decoding, check_decoding

    temperature = 0.0 if options.greedy else options.temperature
    return check_decoding(Decoding(temperature, options.top_k, options.top_p))


def read_prompt(options: SampleOptions) -> str:
    """The text that the flags name."""
    if options.prompt and options.prompt_file:
        raise ValueError("expected either --prompt or --prompt_file, got both")
    if not all(options.stop):
        raise ValueError("expected a --stop text of at least one character, got an empty one")
    return read_text(Path(options.prompt_file)) if options.prompt_file else options.prompt


def left_out(vocab: Any, options: SampleOptions) -> tuple[int, ...]:
    """The ids that are not chosen; ValueError where --allow_unknown would do nothing."""
    if options.allow_unknown and not vocab.unknown_ids:
        raise ValueError(
            f"--allow_unknown does nothing at level {vocab.level}, which has no <unk>: leave it out"
        )
    return () if options.allow_unknown else vocab.unknown_ids


def continue_prompt(run: Any, prompt: np.ndarray, options: SampleOptions, decoding: Any) -> Any:
    """`Samples` as arrays; ValueError where there are none without what is left out."""
    import jax

    from lmseq import generation

    never, model = left_out(run.vocab, options), (run.model, run.params, prompt)
    if options.beam_size:
        lengths = {"beam_size": options.beam_size, "num_tokens": options.num_tokens}
        samples = generation.beam_search(*model, **lengths, never=never)
    else:
        lengths = {"num_samples": options.num_samples, "num_tokens": options.num_tokens}
        key = jax.random.key(options.seed)
        samples = generation.sample_streams(key, *model, **lengths, decoding=decoding, never=never)
    samples = jax.tree.map(np.asarray, samples)
    possible = np.isfinite(samples.log_probs).all(axis=1)  # a beam may hold more than there is
    unknown = np.isin(samples.tokens[possible], never)
    if never and unknown.all():
        raise ValueError("the model can go on with <unk> only: give --allow_unknown, or another prompt")
    if unknown.any():
        say("where nothing else was possible, <unk> stands")
    return samples


def print_samples(run: Any, prompt: np.ndarray, samples: Any, stops: tuple[str, ...]) -> list[dict[str, Any]]:
    """Print continuations, each up to a stop text; what the last line says of each."""
    from experiments.text.asking import Ending

    results = []
    for ids, log_probs in zip(*samples, strict=True):
        number, _ = Ending(run.vocab, prompt, stops).cut(ids.tolist())
        log_prob = log_probs[:number].sum(dtype=np.float64)
        if not np.isfinite(log_prob):
            continue  # fewer continuations exist than the beam can hold
        text = run.vocab.decode(np.concatenate([prompt, ids[:number]]))
        print(f"--- {log_prob:.3f} nats, {log_prob / number:.3f} a token\n{text}")
        results.append({"text": text, "log_likelihood": log_prob, "num_tokens": number})
    return results


def ask(run: Any, options: SampleOptions, decoding: Any, context: np.ndarray) -> dict[str, Any]:
    """Answer prompts until there are no more; the figures of all."""
    from experiments.text.asking import Answering, converse
    from lmseq.generation import check_lengths, prepare_draws

    check_lengths(1, options.num_tokens)
    never, tables = left_out(run.vocab, options), prepare_draws(run.model, run.params, decoding)
    asked = Answering(run, decoding, never, options.num_tokens, options.stop, options.seed, tables)
    return converse(asked, partial(encode_prompt, run.vocab), context)


def act(options: SampleOptions, given: Given) -> None:
    """Sample or search, print."""
    if not options.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    decoding, text = read_decoding(options, given), read_prompt(options)
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    from experiments.text.evaluate import load_run

    run = load_run(options.run, options.checkpoint)
    prompt, where = encode_prompt(run.vocab, text), {"run": str(options.run), "step": run.step}
    if options.interactive:
        print(to_json(where | ask(run, options, decoding, prompt)), flush=True)
        return
    begun = time.monotonic()
    samples = continue_prompt(run, prompt, options, decoding)
    seconds = time.monotonic() - begun
    results = print_samples(run, prompt, samples, options.stop)
    speed = samples.tokens.size / seconds
    say(f"{samples.tokens.size:,} tokens in {seconds:.1f} s, compilation included: {speed:,.0f} tokens/s")
    print(to_json(where | {"tokens_per_second": speed, "samples": results}), flush=True)


COMMAND = Command(__doc__, SampleOptions, act)

if __name__ == "__main__":
    main(COMMAND)

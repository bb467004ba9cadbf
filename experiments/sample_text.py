"""Sample continuations of a prompt from a trained model, or search for the likeliest with a beam.

    python -m experiments.sample_text --run=runs/demo --prompt="Class " --num_samples=4
    python -m experiments.sample_text --run=runs/demo --prompt="Class " --beam_size=8 --num_tokens=40

Each is printed with log P(continuation | prompt) in nats under the model itself, whatever temperature
or truncation chose its tokens. The last line is a JSON object.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import listed, say
from experiments.frame.flags import Given
from lmseq.config.knobs import at_least, knob
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
    from lmseq.sampling import Decoding, check_decoding

    temperature = 0.0 if options.greedy else options.temperature
    return check_decoding(Decoding(temperature, options.top_k, options.top_p))


def encode_prompt(vocab: Any, prompt: str) -> np.ndarray:
    """Ids of the prompt; ValueError naming what the vocabulary lacks."""
    ids = vocab.encode(prompt, name="the prompt")
    unknown = vocab.unknown(prompt)
    if unknown:
        raise ValueError(f"the prompt has what the vocabulary lacks: {listed(unknown)}")
    if vocab.level == "word" and ids.size and not prompt.endswith("\n"):
        return ids[:-1]  # the end of the line, which a prompt leaves open
    return ids


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


def act(options: SampleOptions, given: Given) -> None:
    """Sample or search, print."""
    if not options.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    decoding = read_decoding(options, given)
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    from experiments.text.evaluate import load_run

    run = load_run(options.run, options.checkpoint)
    prompt, num_tokens = encode_prompt(run.vocab, options.prompt), options.num_tokens
    begun = time.monotonic()
    tokens, log_probs = continue_prompt(run, prompt, options, decoding)
    seconds = time.monotonic() - begun
    results = []
    for ids, log_prob in zip(tokens, log_probs.sum(axis=1, dtype=np.float64), strict=True):
        if not np.isfinite(log_prob):
            continue  # fewer continuations exist than the beam can hold
        text = run.vocab.decode(np.concatenate([prompt, ids]))
        print(f"--- {log_prob:.3f} nats, {log_prob / num_tokens:.3f} a token\n{text}")
        results.append({"text": text, "log_likelihood": log_prob, "num_tokens": num_tokens})
    speed = tokens.size / seconds
    say(f"{tokens.size:,} tokens in {seconds:.1f} s, compilation included: {speed:,.0f} tokens/s")
    summary = {"run": str(options.run), "step": run.step, "tokens_per_second": speed, "samples": results}
    print(to_json(summary), flush=True)


COMMAND = Command(__doc__, SampleOptions, act)

if __name__ == "__main__":
    main(COMMAND)

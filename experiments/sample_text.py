"""Sample continuations of a prompt from a trained model, or search for the likeliest with a beam.

    python -m experiments.sample_text --run=runs/demo --prompt="Class " --num_samples=4
    python -m experiments.sample_text --run=runs/demo --prompt="Class " --beam_size=8 --num_tokens=40

Each is printed with log P(continuation | prompt) in nats under the model itself, whatever temperature
or truncation chose its tokens. The last line is a JSON object.
"""

from experiments.frame import app  # first: it notes the time

import json
import time
from typing import Any

import numpy as np
from absl import flags

from lmseq.config.knobs import at_least
from lmseq.sampling import Decoding, check_decoding

flags.DEFINE_string("run", None, "folder of a run of train_lm or train_ngram, or an ARPA file")
flags.DEFINE_enum(
    "checkpoint", "latest", ["latest", "best"], "the last parameters, or the best by validation"
)
flags.DEFINE_string("prompt", "", "text to continue; empty: from the beginning")
flags.DEFINE_integer("num_samples", 1, "continuations")
flags.DEFINE_integer("num_tokens", 200, "tokens of each")
flags.DEFINE_float("temperature", 1.0, "logits are divided by it; 0: greedy")
flags.DEFINE_integer("top_k", 0, "only the k likeliest tokens; 0: all")
flags.DEFINE_float("top_p", 1.0, "only the likeliest tokens that together have this probability")
flags.DEFINE_bool("greedy", False, "always the likeliest token; the same as temperature 0")
flags.DEFINE_integer("beam_size", 0, "beam search with this many prefixes instead of sampling; 0: sample")
flags.DEFINE_integer("seed", 0, "the same seed gives the same samples")
NAMES = ["run", "checkpoint", "prompt", "num_samples", "num_tokens", "temperature", "top_k", "top_p"]
NAMES += ["greedy", "beam_size", "seed"]
CHANCE = ("temperature", "top_k", "top_p")  # flags of a random choice


def read_decoding() -> Decoding:
    """How tokens are chosen; ValueError for flags out of range or against each other."""
    given = [f"--{name}" for name in CHANCE if app.FLAGS[name].present]
    at_least(0, **app.values(["beam_size", "seed"]))
    if app.FLAGS.greedy and (given or app.FLAGS.beam_size):
        raise ValueError(f"--greedy contradicts {' '.join(given) or '--beam_size'}: give one of them")
    if app.FLAGS.temperature == 0.0 and len(given) > 1:
        raise ValueError("--temperature=0 is greedy and contradicts --top_k and --top_p: give one of them")
    if app.FLAGS["seed"].present and (app.FLAGS.greedy or app.FLAGS.temperature == 0.0):
        raise ValueError("--seed does nothing where the likeliest token is taken: leave it out")
    given += ["--seed"] * app.FLAGS["seed"].present
    random = given + ["--num_samples"] * app.FLAGS["num_samples"].present
    if app.FLAGS.beam_size and random:
        raise ValueError(f"--beam_size does not sample and contradicts {' '.join(random)}: give one of them")
    temperature = 0.0 if app.FLAGS.greedy else app.FLAGS.temperature
    return check_decoding(Decoding(temperature, app.FLAGS.top_k, app.FLAGS.top_p))


def encode_prompt(vocab: Any, prompt: str) -> np.ndarray:
    """Ids of the prompt; ValueError naming what the vocabulary lacks."""
    unknown = vocab.unknown(prompt)
    if unknown:
        raise ValueError(f"the prompt has what the vocabulary lacks: {app.listed(unknown)}")
    ids = vocab.encode(prompt)
    if vocab.level == "word" and ids.size and not prompt.endswith("\n"):
        return ids[:-1]  # the end of the line, which a prompt leaves open
    return ids


def main() -> None:
    if not app.FLAGS.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    decoding = read_decoding()
    app.prepare_jax()
    import jax

    from lmseq import generation
    from experiments.text.evaluate import load_run

    run = load_run(app.FLAGS.run, app.FLAGS.checkpoint)
    prompt = encode_prompt(run.vocab, app.FLAGS.prompt)
    num_tokens, beam_size = app.FLAGS.num_tokens, app.FLAGS.beam_size
    start = time.monotonic()
    if beam_size:
        samples = generation.beam_search(
            run.model, run.params, prompt, beam_size=beam_size, num_tokens=num_tokens
        )
    else:
        samples = generation.sample_streams(
            jax.random.key(app.FLAGS.seed),
            run.model,
            run.params,
            prompt,
            num_samples=app.FLAGS.num_samples,
            num_tokens=num_tokens,
            decoding=decoding,
        )
    tokens, log_probs = (np.asarray(part) for part in samples)
    seconds = time.monotonic() - start
    results = []
    for ids, log_prob in zip(tokens, log_probs.sum(axis=1, dtype=np.float64), strict=True):
        if not np.isfinite(log_prob):
            continue  # fewer continuations exist than the beam can hold
        text = run.vocab.decode(np.concatenate([prompt, ids]))
        print(f"--- {log_prob:.3f} nats, {log_prob / num_tokens:.3f} a token\n{text}")
        results.append({"text": text, "log_likelihood": log_prob, "num_tokens": num_tokens})
    speed = tokens.size / seconds
    app.say(f"{tokens.size:,} tokens in {seconds:.1f} s, compilation included: {speed:,.0f} tokens/s")
    summary = {"run": str(app.FLAGS.run), "step": run.step, "tokens_per_second": speed, "samples": results}
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    app.run(main, __doc__, NAMES)

"""Count models beside the field's reference tool and nltk: estimating, reading, writing, scoring, sampling.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.ngram --words=1000000
    python -m benchmarks.ngram --corpus=ptb

`lmplz` and `query` are looked for on the PATH; how to build them is told at kheafield.com/code/kenlm. Without
them, or without the packages kenlm and nltk, what is there is measured. The text is a corpus, or is made:
each word follows the one before by a list of favourites of its own, or by Zipf's law, in sentences of 5 to 35
words. Estimation is whole processes, from text to a model on disk, interleaved, medians taken; the tool
writes an ARPA file, lmseq its tables. Every figure that both give is compared before it is timed. A ratio is
the other's time divided by ours; of memory, ours divided by theirs. The last line is a JSON object.
"""

import json
import math
import re
import statistics
import sys
import tempfile
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import hardware, in_turns, publish, run_process, timed
from benchmarks.ngram_queries import by_routines, compile_routines, their_package, theirs_by_package
from experiments.frame.command import main_with_flags
from experiments.frame.console import say
from experiments.frame.start import prepare_jax
from lmseq.config.knobs import at_least

flags.DEFINE_integer("words", 1_000_000, "words of the training text that is made")
flags.DEFINE_string("corpus", "", "a corpus instead, such as ptb; its validation text is scored")
flags.DEFINE_integer("order", 5, "length of the longest n-grams")
flags.DEFINE_integer("rounds", 3, "interleaved repetitions, of which the median counts")
flags.DEFINE_string("memory", "", "bound for lmseq, such as 3G; empty: none")
flags.DEFINE_string("their_memory", "2G", "what lmplz is given with -S")
flags.DEFINE_bool("estimate_only", False, "leave out reading, writing and scoring")
flags.DEFINE_integer("seed", 0, "of the text that is made")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["words", "corpus", "order", "rounds", "memory", "their_memory", "estimate_only", "seed", "output"]
VOCABULARY, FAVOURITES, STREAMS, TOLERANCE = 50_000, 40, 10_000, 2e-6
MOST_EXCHANGED = 10_000_000  # n-grams: a longer ARPA file takes minutes to read and write
HELD_OUT = 100_000  # words of the text that is scored
NLTK_WORDS = 60
SAMPLED_STREAMS = (1, 16, 256, 1024)
SAMPLED = {"entries": 50_000, "whole": 5_000}  # tokens of all streams together, in one call


def zipf(rng: np.random.Generator, size: Any, most: int) -> np.ndarray:
    """Ranks 0 ... most - 1 with probability about 1 / (rank + 1): the logarithm is uniform."""
    return np.minimum(np.exp(rng.random(size) * math.log(most + 1)).astype(np.int64) - 1, most - 1)


def make_text(path: Path, num_words: int, seed: int) -> None:
    """Sentences of a Markov chain of words with favourites, many side by side, a block at a time."""
    rng = np.random.default_rng(seed)
    names = np.array([f"w{i:x}" for i in range(VOCABULARY)], object)
    favourites = zipf(np.random.default_rng(0), (VOCABULARY, FAVOURITES), VOCABULARY)
    with path.open("w", encoding="utf-8") as file:
        written = 0
        while written < num_words:
            lengths = rng.integers(5, 36, STREAMS)
            words = np.empty((lengths.max(), STREAMS), np.int64)
            last = zipf(rng, STREAMS, VOCABULARY)
            for step in range(len(words)):
                follows = rng.random(STREAMS) < 0.75
                last = np.where(
                    follows, favourites[last, zipf(rng, STREAMS, FAVOURITES)], zipf(rng, STREAMS, VOCABULARY)
                )
                words[step] = last
            for stream, length in enumerate(lengths.tolist()):
                if written < num_words:
                    file.write(" ".join(names[words[:length, stream]]) + "\n")
                    written += length


def prepare(folder: Path) -> None:
    """train.txt, valid.txt and test.txt, of the corpus or made; `<unk>` spelled so that the tool takes it."""
    if flags.FLAGS.corpus:
        from experiments.text.loading import read_raw
        from lmseq.data.tokens import prepare_corpus

        corpus = prepare_corpus(read_raw(flags.FLAGS.corpus), whole_words=True)
        for split in ("train", "valid", "test"):
            text = getattr(corpus, split).replace("<unk>", "<rare>")
            (folder / f"{split}.txt").write_text(text, encoding="utf-8")
        return
    make_text(folder / "train.txt", flags.FLAGS.words, flags.FLAGS.seed)
    make_text(folder / "valid.txt", min(HELD_OUT, flags.FLAGS.words), flags.FLAGS.seed + 1)
    (folder / "test.txt").write_bytes((folder / "valid.txt").read_bytes())


def estimate(folder: Path, lmplz: str | None) -> dict[str, Any]:
    """Whole processes, interleaved: seconds, memory, and that the numbers of n-grams are the same."""
    order, rows = flags.FLAGS.order, {"ours": [], "theirs": []}
    for turn in range(flags.FLAGS.rounds):
        command = [
            sys.executable,
            "-m",
            "experiments.train_ngram",
            f"--corpus={folder}",
            "--level=word",
            f"--order={order}",
            "--discount_fallback",
            "--kenlm_compat",
            "--by_order=false",
            f"--memory={flags.FLAGS.memory}",
            f"--workdir={folder / f'run{turn}'}",
        ]
        rows["ours"].append(run_process(command))
        if lmplz:
            command = [lmplz, "-o", str(order), "-S", flags.FLAGS.their_memory, "--discount_fallback"]
            command += ["--text", str(folder / "train.txt"), "--arpa", str(folder / "theirs.arpa")]
            rows["theirs"].append(run_process(command))
    summary = json.loads(rows["ours"][0].output.splitlines()[-1])
    found: dict[str, Any] = {"num_ngrams": summary["num_ngrams"], "peak_bytes": {}, "seconds": {}}
    for side, runs in rows.items():
        if runs:
            found["seconds"][side] = statistics.median(run.seconds for run in runs)
            found["peak_bytes"][side] = statistics.median(run.peak_bytes for run in runs)
            found[f"{side}_range"] = [min(run.seconds for run in runs), max(run.seconds for run in runs)]
            say(
                f"estimate, {side:<8}{found['seconds'][side]:>8.2f} s   "
                f"{found['peak_bytes'][side] / 2**20:,.0f} MB"
            )
    found["seconds"]["to_tables"] = summary["seconds_to_tables"]
    say(f"          of it, text to tables {summary['seconds_to_tables']:.2f} s")
    if lmplz:
        with (folder / "theirs.arpa").open("rb") as file:
            head = file.read(1000).decode(errors="replace")
        theirs = [int(number) for number in re.findall(r"^ngram \d+=(\d+)$", head, re.MULTILINE)]
        if theirs != summary["num_ngrams"]:
            raise ArithmeticError(f"expected the same n-grams, got {summary['num_ngrams']} and {theirs}")
    return found


def exchange(folder: Path) -> dict[str, Any]:
    """Seconds to write our ARPA file and to read the tool's, and that both say the same to 2e-6 in log10."""
    from lmseq.data.tokens import Vocab
    from lmseq.ngram import native
    from lmseq.ngram.arpa import LN10, read_arpa, write_arpa
    from lmseq.ngram.spelling import spell_symbols
    from lmseq.ngram.storage import load_tables
    from lmseq.ngram.words import spell_words

    seconds: dict[str, float] = {}
    vocab = Vocab.from_json((folder / "run0" / "vocab.json").read_text())
    seconds["load_tables"], (tables, more) = timed(lambda: load_tables(folder / "run0" / "tables.npz"))
    words = spell_words(spell_symbols(vocab), more["word_of"], tables.vocab_size)
    seconds["write_arpa"], _ = timed(lambda: write_arpa(folder / "ours.arpa", tables, words, backend="numpy"))
    theirs = folder / "theirs.arpa"
    source = theirs if theirs.exists() else folder / "ours.arpa"
    seconds["read_arpa"], read = timed(lambda: read_arpa(source, backend="numpy"))
    works: dict[str, Any] = {}
    if compile_routines(native):
        works["native_write_arpa"] = lambda: write_arpa(folder / "ours.arpa", tables, words, backend="native")
        works["native_read_arpa"] = lambda: read_arpa(source, backend="native")
    if kenlm := their_package():
        works["theirs_read_arpa"] = lambda: kenlm.Model(str(source))
    seconds |= in_turns(works, flags.FLAGS.rounds)
    largest = 0.0
    for one, other in zip(tables.orders, read.tables.orders, strict=True):
        if read.words != words or not np.array_equal(one.word, other.word):
            raise ArithmeticError("expected the same n-grams in the tool's ARPA file")
        for left, right in ((one.log_prob, other.log_prob), (one.log_backoff, other.log_backoff)):
            finite = np.isfinite(left)  # all but <s>, whose probability nobody uses
            largest = max(largest, float(np.abs(left[finite] - right[finite]).max(initial=0.0)) / LN10)
    if not largest <= TOLERANCE:
        raise ArithmeticError(f"expected the same log10 to {TOLERANCE}, got a difference of {largest:.3g}")
    for name, spent in seconds.items():
        say(f"{name:<24}{spent:8.3f} s")
    return {"seconds": seconds, "largest_difference": largest}


def scoring(folder: Path) -> dict[str, Any]:
    """Tokens a second: all at once on the device and on the host, and one sentence at a time."""
    import jax
    import jax.numpy as jnp

    from lmseq.models.ngram import put_tables
    from lmseq.ngram.backoff import score_words
    from lmseq.ngram.counts import BOS_ID
    from lmseq.ngram.storage import load_tables
    from lmseq.ngram.words import look_up, spell_words

    rounds = flags.FLAGS.rounds
    tables, more = load_tables(folder / "run0" / "tables.npz")
    vocab = json.loads((folder / "run0" / "vocab.json").read_text())["tokens"]
    words = spell_words(vocab, more["word_of"], tables.vocab_size)
    text = (folder / "valid.txt").read_bytes()
    stream = look_up([text], [word.encode() for word in words])
    predicted = int((stream != BOS_ID).sum())
    score_words(tables, stream)
    speeds: dict[str, float] = {}
    host = [timed(lambda: score_words(tables, stream)) for _ in range(rounds)]
    speeds["numpy_bulk"] = predicted / statistics.median(seconds for seconds, _ in host)
    total = float(host[0][1].sum())
    sentences = np.split(stream, np.flatnonzero(stream == BOS_ID)[1:])[:2000]
    number = sum(len(s) - 1 for s in sentences)
    singly = [timed(lambda: [score_words(tables, s) for s in sentences])[0] for _ in range(rounds)]
    speeds["numpy_one_sentence"] = number / statistics.median(singly)

    # On the device a stream has no <s>: what ends a sentence begins the next.
    symbol = np.full(tables.vocab_size, 0, np.int32)
    symbol[more["word_of"]] = np.arange(len(more["word_of"]))
    model, params = put_tables(tables, more["word_of"], has_unknown=True)
    ids = symbol[stream[stream != BOS_ID]]
    copies = max(1, 1_000_000 // len(ids))
    targets = jnp.asarray(np.tile(ids, (copies, 1)))
    score = jax.jit(lambda p, c, x, y: model.token_log_probs(p, c, x, y)[1])
    inputs, carry = targets[:, :-1], model.init_carry(params, copies)
    log_probs = score(params, carry, inputs, targets[:, 1:])
    device = [
        timed(lambda: score(params, carry, inputs, targets[:, 1:]).block_until_ready())[0]
        for _ in range(rounds)
    ]
    speeds["device_bulk"] = inputs.size / statistics.median(device)
    on_device = float(np.asarray(log_probs[0], np.float64).sum()) + float(host[0][1][1])
    if abs(on_device - total) > 1e-5 * abs(total):
        raise ArithmeticError(f"expected the same score on device and host, got {on_device} and {total}")
    log10 = total / math.log(10.0)
    speeds |= theirs_by_query(folder, log10, predicted)
    works = by_routines(tables, words, text.decode(), total) | theirs_by_package(folder, log10, text)
    speeds |= {name: predicted / seconds for name, seconds in in_turns(works, flags.FLAGS.rounds).items()}
    speeds |= by_nltk(folder)
    for name, speed in speeds.items():
        say(f"{name:<24}{speed:>14,.0f} tokens/s")
    return {"tokens_per_second": speeds, "log10_total": log10}


def sampling(folder: Path) -> dict[str, Any]:
    """Tokens a second of streams drawn entry by entry, and from whole distributions, once compiled."""
    import jax
    import jax.numpy as jnp

    from lmseq.generation import prepare_draws, sample
    from lmseq.runs import load_run
    from lmseq.sampling import Decoding

    run, start, how = load_run(folder / "run0"), jnp.zeros(0, jnp.int32), Decoding()
    seconds, tables = timed(lambda: prepare_draws(run.model, run.params, how))
    speeds: dict[str, dict[str, float]] = {"entries": {}, "whole": {}}

    def draw(given: Any, streams: int, num_tokens: int, seed: int) -> tuple[float, np.ndarray]:
        args = jax.random.key(seed), run.model, run.params, given, start, streams, num_tokens, how, ()
        return timed(lambda: np.asarray(sample(*args).log_probs))

    for streams in SAMPLED_STREAMS:
        likely, common = [], max(1, SAMPLED["whole"] // streams)
        for name, given in (("entries", tables), ("whole", None)):
            num_tokens = max(1, SAMPLED[name] // streams)
            calls = [draw(given, streams, num_tokens, seed) for seed in range(flags.FLAGS.rounds + 1)]
            spent = statistics.median(taken for taken, _ in calls[1:])
            speeds[name][str(streams)] = streams * num_tokens / spent
            likely.append(np.concatenate([drawn[:, :common].ravel() for _, drawn in calls]))
            say(f"{streams:5} streams, {name:<10}{speeds[name][str(streams)]:>14,.0f} tokens/s")
        bound = 5.0 * math.hypot(*(each.std() / each.size**0.5 for each in likely))
        if not abs(likely[0].mean() - likely[1].mean()) <= bound:
            raise ArithmeticError(f"expected samples as likely as {likely[1].mean()}, got {likely[0].mean()}")
    return {"tokens_per_second": speeds, "seconds_to_prepare": seconds}


def theirs_by_query(folder: Path, expected: float, predicted: int) -> dict[str, float]:
    """Words as text, by one thread of `query`, its loading (of an empty text) taken off."""
    query, build = which("query"), which("build_binary")
    if not (query and build and (folder / "theirs.arpa").exists()):
        return {}
    run_process([build, "probing", str(folder / "theirs.arpa"), str(folder / "theirs.bin")])
    seconds = []
    for _ in range(flags.FLAGS.rounds):
        idle = run_process([query, "-v", "summary", str(folder / "theirs.bin")])
        busy = run_process([query, "-v", "summary", str(folder / "theirs.bin")], folder / "valid.txt")
        seconds.append(busy.seconds - idle.seconds)
    perplexity = float(re.search(r"including OOVs:\s*([\d.]+)", busy.output).group(1))
    ours = 10 ** (-expected / predicted)
    if abs(perplexity / ours - 1) > 1e-5:
        raise ArithmeticError(f"expected the tool's perplexity {perplexity}, got {ours}")
    return {"query_text": predicted / statistics.median(seconds)}


def by_nltk(folder: Path) -> dict[str, float]:
    """Interpolated Kneser-Ney of the same order, on a tenth of PTB at most, for a few words."""
    try:
        from nltk.lm import KneserNeyInterpolated
        from nltk.lm.preprocessing import padded_everygram_pipeline
    except ImportError:
        return {}
    with (folder / "train.txt").open(encoding="utf-8") as file:
        sentences = [line.split() for line, _ in zip(file, range(4000), strict=False)]
    order = flags.FLAGS.order
    model = KneserNeyInterpolated(order)
    model.fit(*padded_everygram_pipeline(order, sentences))
    words = [word for sentence in sentences for word in sentence][:NLTK_WORDS]
    spent, _ = timed(lambda: [model.score(w, words[max(0, i - order + 1) : i]) for i, w in enumerate(words)])
    return {"nltk": len(words) / spent}


def ratios_of(found: dict[str, Any]) -> dict[str, float]:
    """Theirs over ours in time, ours over theirs in memory."""
    ratios = {}
    seconds, peak = found["estimate"]["seconds"], found["estimate"]["peak_bytes"]
    if "theirs" in seconds:
        ratios["estimate"] = seconds["theirs"] / seconds["ours"]
        ratios["text_to_tables"] = seconds["theirs"] / seconds["to_tables"]
        ratios["memory"] = peak["ours"] / peak["theirs"]
    exchanged = found.get("exchange", {}).get("seconds", {})
    if {"native_read_arpa", "theirs_read_arpa"} <= exchanged.keys():
        ratios["native_read_arpa"] = exchanged["theirs_read_arpa"] / exchanged["native_read_arpa"]
    speeds = found.get("scoring", {}).get("tokens_per_second", {})
    for ours, theirs in (
        ("device_bulk", "query_text"),
        ("numpy_one_sentence", "kenlm_one_sentence"),
        ("native_one_sentence", "kenlm_one_sentence"),
        ("native_one_word", "kenlm_one_word"),
        ("numpy_one_sentence", "nltk"),
        ("device_bulk", "nltk"),
    ):
        if ours in speeds and theirs in speeds:
            ratios[f"{ours}_to_{theirs}"] = speeds[ours] / speeds[theirs]
    return ratios


def main() -> int:
    at_least(1, words=flags.FLAGS.words, order=flags.FLAGS.order, rounds=flags.FLAGS.rounds)
    at_least(0, seed=flags.FLAGS.seed)
    lmplz = which("lmplz")
    if not lmplz:
        say("lmplz is not on the PATH (how to build it: kheafield.com/code/kenlm): lmseq is measured alone")
    prepare_jax(keep_programs=flags.FLAGS.compilation_cache)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        found: dict[str, Any] = {
            "hardware": hardware(),
            "text": flags.FLAGS.corpus or f"{flags.FLAGS.words} words",
        }
        found["estimate"] = estimate(folder, lmplz)
        if not flags.FLAGS.estimate_only:
            if sum(found["estimate"]["num_ngrams"]) <= MOST_EXCHANGED:
                found["exchange"] = exchange(folder)
            found["scoring"] = scoring(folder)
            found["sampling"] = sampling(folder)
    found = {"ratios": ratios_of(found), **found}
    publish(found, flags.FLAGS.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

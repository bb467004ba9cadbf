"""Take a trained model away: programs and parameters that need JAX and nothing of this project.

    python -m experiments.export --run=runs/demo --out=exported
    python -m experiments.export --run=runs/demo:best --out=best

The folder holds the parameters (params.safetensors), the vocabulary and the settings of the run as JSON, and
the model's three functions for any number of rows, for CPUs, CUDA and TPUs (init_carry.export, update.export
and readout.export: StableHLO, as jax.export writes it). Nets, counts, ARPA files and mixtures alike; what
they do is called in docs/guides/taking_away.md. The last line is a JSON object.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import say
from experiments.frame.flags import Given
from lmseq.config.knobs import knob
from lmseq.files import check_new, replacing_folder, to_json


@dataclass(frozen=True)
class ExportOptions:
    """Which model is taken away, and where to."""

    run: str = knob(
        "",
        "folder of a run of train_lm (also DIR:best, DIR:STEP), train_ngram or mix_models, or an ARPA file",
        is_path=True,
    )
    checkpoint: Literal["latest", "best"] = knob("latest", "the last parameters, or the best by validation")
    out: str = knob("", "folder to write: created, and never replaced", is_path=True)


SCRIPTS = {"LanguageModelConfig": "train_lm", "NgramConfig": "train_ngram", "MixtureConfig": "mix_models"}


def write(folder: Path, run: Any, name: str) -> dict[str, Any]:
    """Everything of a run into a folder; what `export.json` says of it."""
    from lmseq import portable, runs
    from lmseq.config import knobs
    from lmseq.training.checkpoint import digest

    script = SCRIPTS.get(type(run.config).__name__)
    facts = {
        "run": name,
        "script": script,
        "step": run.step,
        "params_digest": digest(run.params),
        "level": run.vocab.level,
        "num_symbols": len(run.vocab),
        "are_probabilities": runs.is_proper(run),
    }
    (folder / "vocab.json").write_text(run.vocab.to_json(), encoding="utf-8")
    settings = "{}\n" if run.config is None else knobs.to_json(run.config, script)  # an ARPA file has none
    (folder / "config.json").write_text(settings, encoding="utf-8")
    return portable.write_portable(folder, portable.portable(run.model, run.params), facts)


def act(options: ExportOptions, given: Given) -> None:
    """Load, trace, write, print."""
    if not options.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    if not options.out:
        raise ValueError("expected --out=DIR, the folder that the model is written to")
    out = Path(options.out)
    check_new(out)  # before a long file is read
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    from experiments.text.evaluate import load_run
    from lmseq import runs

    run = load_run(options.run, options.checkpoint, backend="scan")
    if not runs.is_proper(run):
        say("stupid back-off gives scores, not probabilities: compare them with its own only")
    with replacing_folder(out) as folder:
        facts = write(folder, run, options.run)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name, size in sizes.items():
        say(f"{size:>14,} bytes  {out / name}")
    print(to_json({"out": options.out, **facts, "bytes": sum(sizes.values())}), flush=True)


COMMAND = Command(__doc__, ExportOptions, act)

if __name__ == "__main__":
    main(COMMAND)

"""Take a trained model away: programs and parameters that need JAX and nothing of this project.

    python -m experiments.export --run=runs/demo --out=exported
    python -m experiments.export --run=runs/demo:best --out=best

The folder holds the parameters (params.safetensors), the settings of the run and its vocabulary, or the units
of its series, as JSON, and the model's functions for any number of rows, for CPUs, CUDA and TPUs
(init_carry.export, update.export and readout.export: StableHLO, as jax.export writes it). Nets, counts, ARPA
files, mixtures, and models of series without covariates. docs/guides/taking_away.md has the lines that call
them. The last line is a JSON object.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
        "folder of a run of train_lm (also DIR:best, DIR:STEP), train_ngram, mix_models or predict_series, "
        "or an ARPA file",
        is_path=True,
    )
    checkpoint: Literal["latest", "best"] = knob("latest", "the last parameters, or the best by validation")
    out: str = knob("", "folder to write: created, and never replaced", is_path=True)


class Taken(NamedTuple):
    """A model, how many values it reads a step (0: a token), JSON files by name, and facts of the run."""

    model: Any
    params: Any
    num_values: int
    files: dict[str, str]
    facts: dict[str, Any]


SCRIPTS = {"LanguageModelConfig": "train_lm", "NgramConfig": "train_ngram", "MixtureConfig": "mix_models"}


def take_text(run: Any) -> Taken:
    """What there is to take of a model of text."""
    from lmseq import runs
    from lmseq.config import knobs

    script = SCRIPTS.get(type(run.config).__name__)
    settings = "{}\n" if run.config is None else knobs.to_json(run.config, script)  # an ARPA file has none
    files = {"vocab.json": run.vocab.to_json(), "config.json": settings}
    facts = {
        "script": script,
        "step": run.step,
        "level": run.vocab.level,
        "num_symbols": len(run.vocab),
        "are_probabilities": runs.is_proper(run),
    }
    return Taken(run.model, run.params, 0, files, facts)


def take_series(fitted: Any) -> Taken:
    """What there is to take of a model of series; ValueError for one that reads covariates."""
    from lmseq.config import knobs
    from lmseq.types import LEVELS

    config, panel = fitted.config, fitted.panel
    if panel.covariates.total:
        raise ValueError(
            "a model that reads covariates cannot be exported: its rows are made of columns and a calendar "
            "that only this project reads; train one without known_columns, past_columns, static_columns and "
            "calendar"
        )
    units = [
        {
            "name": each.series.name,
            "mean": each.scaler.mean.tolist(),
            "scale": each.scaler.scale.tolist(),
            "log": each.scaler.log,
        }
        for each in panel.members
    ]
    columns = list(panel.members[0].series.columns)
    levels = {"levels": LEVELS} if config.model.head == "quantiles" else {}
    told = {"columns": columns if len(units) == 1 else [], "series": units, **levels}
    files = {
        "units.json": to_json(told, indent=1) + "\n",
        "config.json": knobs.to_json(config, "predict_series"),
    }
    facts = {"script": "predict_series", "head": config.model.head, "num_values": panel.num_features}
    return Taken(fitted.model, fitted.params, panel.num_features, files, facts)


def write(folder: Path, taken: Taken, name: str) -> dict[str, Any]:
    """All of it into a folder; what `export.json` says, which calls the run by a name."""
    from lmseq import portable
    from lmseq.training.checkpoint import digest

    found = portable.portable(taken.model, taken.params, taken.num_values)
    for file, text in taken.files.items():
        (folder / file).write_text(text, encoding="utf-8")
    facts = {"run": name, **taken.facts, "params_digest": digest(taken.params)}
    return portable.write_portable(folder, found, facts)


def load(options: ExportOptions, given: Given) -> Taken:
    """The run that the options name; ValueError where it cannot be taken away."""
    from experiments.series import saved
    from experiments.text.evaluate import load_run
    from lmseq import runs

    folder, which = runs.split_run(options.run)
    if runs.script_of(folder) == "predict_series":
        if which or "checkpoint" in given.names:
            named = f":{which}" if which else "--checkpoint"
            raise ValueError(
                f"a run of predict_series has the parameters it was judged by: leave {named} out"
            )
        return take_series(saved.load(folder, backend="scan"))
    run = load_run(options.run, options.checkpoint, backend="scan")
    if not runs.is_proper(run):
        say("stupid back-off gives scores, not probabilities: compare them with its own only")
    return take_text(run)


def act(options: ExportOptions, given: Given) -> None:
    """Load, trace, write, print."""
    if not options.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    if not options.out:
        raise ValueError("expected --out=DIR, the folder that the model is written to")
    out = Path(options.out)
    check_new(out)  # before a long file is read
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    taken = load(options, given)
    with replacing_folder(out) as folder:
        facts = write(folder, taken, options.run)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name, size in sizes.items():
        say(f"{size:>14,} bytes  {out / name}")
    print(to_json({"out": options.out, **facts, "bytes": sum(sizes.values())}), flush=True)


COMMAND = Command(__doc__, ExportOptions, act)

if __name__ == "__main__":
    main(COMMAND)

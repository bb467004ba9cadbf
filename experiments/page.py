"""A page of runs, in one HTML file that any browser opens: figures, curves, and the text as they read it.

    python -m experiments.page --runs=runs/demo
    python -m experiments.page --runs=runs/demo,runs/counts --out=compare.html

Of one run the page is written into its folder, as it is at its end; of several, which must be of one text or
of the same series, they stand side by side. A run is a folder of train_lm (also DIR:best, DIR:STEP),
train_ngram, mix_models, average or predict_series; or one folder of ablate, alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import say
from experiments.frame.flags import Given
from experiments.web import document, merging, runs
from lmseq.config.knobs import at_least, knob
from lmseq.files import to_json

PAGE = "page.html"
TEXTS = ("train_lm", "train_ngram", "mix_models", "average")
MOST_RUNS, MOST_TOKENS = 20, 20_000


@dataclass(frozen=True)
class PageOptions:
    """What is shown, and where it is written."""

    runs: str = knob("", "folders of runs, or one of an ablation, separated by commas", is_path=True)
    out: str = knob("", "the page, FILE.html; of one run page.html in its folder, if not given", is_path=True)
    tokens: int = knob(4000, "tokens of the validation text that are shown one by one, at most")


def act(options: PageOptions, given: Given) -> int:
    """Read the runs, put them together, write, print."""
    paths = [part.strip() for part in options.runs.split(",") if part.strip()]
    if not paths:
        raise ValueError("expected --runs=FOLDER,FOLDER,...")
    at_least(1, MOST_RUNS, **{"the number of runs": len(paths)})
    at_least(1, MOST_TOKENS, tokens=options.tokens)
    if len(paths) > 1 and not options.out:
        raise ValueError("expected --out=FILE.html, as the page of several runs belongs to none of them")
    folders = [_folder(path) for path in paths]
    out = Path(options.out) if options.out else folders[0] / PAGE
    if out.suffix != ".html":
        raise ValueError(f"expected --out to end in .html, got {out}")
    _check_together(paths, folders)
    found = [
        _data(path, folder, options.tokens, len(paths) > 1, given)
        for path, folder in zip(paths, folders, strict=True)
    ]
    data = merging.merged(_names(paths, folders), found) if len(found) > 1 else found[0]
    out.parent.mkdir(parents=True, exist_ok=True)
    document.write_page(out, data)
    print(to_json({"page": str(out), "runs": len(paths), "bytes": out.stat().st_size}))
    return 0


def _folder(path: str) -> Path:
    """The folder of a run that may name a checkpoint."""
    folder, _, which = path.rpartition(":")
    return Path(folder if folder and which and not Path(path).exists() else path)


def _check_together(paths: list[str], folders: list[Path]) -> None:
    """ValueError for runs that do not go on one page, naming two that differ."""
    scripts = [runs.script_of(folder) for folder in folders]
    kinds = []
    for path, script in zip(paths, scripts, strict=True):
        if script not in (*TEXTS, "predict_series", "ablate"):
            raise ValueError(
                f"{path} holds a run of {script or 'an older version'}, which has no page: name runs of "
                f"{', '.join(TEXTS)}, predict_series or ablate"
            )
        kinds.append("texts" if script in TEXTS else "series" if script == "predict_series" else "settings")
    if len(paths) == 1:
        return
    if "settings" in kinds:
        raise ValueError(f"{paths[kinds.index('settings')]} is an ablation, which has a page of its own")
    other = next((path for path, kind in zip(paths, kinds, strict=True) if kind != kinds[0]), None)
    if other is not None:
        raise ValueError(f"{paths[0]} and {other} are of different data, text and series: leave one out")
    noted = [_noted(folder, kinds[0]) for folder in folders]
    for path, facts in zip(paths, noted, strict=True):
        if runs.digest_of(facts) != runs.digest_of(noted[0]):
            raise ValueError(
                f"{paths[0]} and {path} were judged on different {kinds[0]} ({_called(noted[0])}, "
                f"{_called(facts)}): name runs on the same"
            )


def _noted(folder: Path, kind: str) -> dict[str, Any]:
    return runs.facts_of(folder, "corpus.json" if kind == "texts" else "series.json")


def _called(facts: dict[str, Any]) -> str:
    return str(facts.get("corpus", facts.get("series", "no name")))


def _names(paths: list[str], folders: list[Path]) -> list[str]:
    """The last part of each path; the whole, where two end alike."""
    last = [path.rstrip("/").rpartition("/")[2] for path in paths]
    return last if len(set(last)) == len(last) else paths


def _data(path: str, folder: Path, num_tokens: int, has_others: bool, given: Given) -> dict[str, Any]:
    """The data of one run: of the page in its folder, where that is of this run still, or made anew."""
    script = runs.script_of(folder)
    if script == "ablate":
        from experiments.ablation import sweep_page

        return sweep_page.data_of_folder(folder)
    if path == str(folder):
        stored = document.read_page(folder / PAGE)
        if stored is not None and _is_of(stored, folder, num_tokens):
            return merging.cut(stored, num_tokens)
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    say(f"{path}: read again for the page")
    if script == "predict_series":
        from experiments.series import pages

        return pages.data_of_folder(folder)
    from experiments.text import reopened

    return reopened.data_of_run(path, num_tokens, has_others=has_others)


def _is_of(stored: dict[str, Any], folder: Path, num_tokens: int) -> bool:
    """Whether a page is of the run that the folder holds now, and shows as much of its text as is asked."""
    try:
        [run] = stored["runs"]
        is_same = run["stamp"] == runs.stamp_of(runs.summary_of(folder))
        enough = all(
            len(each["tokens"]) >= min(num_tokens, each["most"], each["of"])
            for each in stored.get("readings", [])
        )
    except (KeyError, TypeError, ValueError):
        return False
    return is_same and enough


COMMAND = Command(__doc__, PageOptions, act)

if __name__ == "__main__":
    main(COMMAND)

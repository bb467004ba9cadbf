"""A page of runs, in one HTML file that any browser opens: figures, curves, and the text as they read it.

    python -m experiments.page --runs=runs/demo
    python -m experiments.page --runs=runs/demo,runs/counts --out=compare.html

Of one run the page is written into its folder, as it is at its end; of several, which must be of one text or
of the same series, they stand side by side. A run is a folder of train_lm (also DIR:best, DIR:STEP,
with --out), train_ngram, mix_models, average or predict_series; or one folder of ablate, alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import say
from experiments.frame.flags import Given
from experiments.web import document, merging, runs
from lmseq.config.knobs import at_least, knob, script_of
from lmseq.files import split_run, to_json

TEXTS = ("train_lm", "train_ngram", "mix_models", "average")
KINDS = {"predict_series": "series", "ablate": "settings"}
FACTS = {"texts": "corpus.json", "series": "series.json"}
MOST_RUNS, MOST_TOKENS = 20, 20_000
DAMAGE = (KeyError, TypeError, AttributeError, IndexError)  # what records that were edited lead to


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
    folders, named = zip(*map(split_run, paths), strict=True)
    scripts = [
        _script(path, folder, which) for path, folder, which in zip(paths, folders, named, strict=True)
    ]
    out = Path(options.out) if options.out else folders[0] / document.PAGE
    if out.suffix != ".html":
        raise ValueError(f"expected --out to end in .html, got {out}")
    own = [folder / document.PAGE for folder, which in zip(folders, named, strict=True) if which]
    if out.resolve() in [page.resolve() for page in own]:
        raise ValueError(
            f"expected --out=FILE.html, as {out} is of the parameters that the run was judged by"
        )
    _check_together(paths, folders, scripts)
    try:
        found = [
            _data(path, folder, script, options.tokens, len(paths) > 1, given)
            for path, folder, script in zip(paths, folders, scripts, strict=True)
        ]
        data = merging.merged(_names(paths), found) if len(found) > 1 else found[0]
    except DAMAGE as error:
        raise ValueError(
            f"summary.json or page.html in {' or '.join(map(str, folders))} is damaged ({error!r}): restore "
            "the one, or remove the other"
        ) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    document.write_page(out, data)
    print(to_json({"page": str(out), "runs": len(paths), "bytes": out.stat().st_size}))
    return 0


def _script(path: str, folder: Path, which: str) -> str:
    """The script of a run; ValueError for one that has no page, or no checkpoint to be named."""
    runs.check_run(folder)
    script = script_of(folder)
    if script not in (*TEXTS, "predict_series", "ablate"):
        raise ValueError(
            f"{path} holds a run of {script or 'an older version'}, which has no page: name runs of "
            f"{', '.join(TEXTS)}, predict_series or ablate"
        )
    if which and script != "train_lm":
        raise ValueError(
            f"{folder} holds a run of {script}, shown with the parameters that it was judged by: "
            f"leave :{which} out"
        )
    return script


def _check_together(paths: list[str], folders: Sequence[Path], scripts: list[str]) -> None:
    """ValueError for runs that do not go on one page, naming two that differ."""
    kinds = ["texts" if each in TEXTS else KINDS[each] for each in scripts]
    if len(paths) == 1:
        return
    if "settings" in kinds:
        raise ValueError(f"{paths[kinds.index('settings')]} is an ablation, which has a page of its own")
    other = next((path for path, kind in zip(paths, kinds, strict=True) if kind != kinds[0]), None)
    if other is not None:
        raise ValueError(f"{paths[0]} and {other} are of different data, text and series: leave one out")
    file = FACTS[kinds[0]]
    noted = [runs.facts_of(folder, file) for folder in folders]
    for path, folder, facts in zip(paths, folders, noted, strict=True):
        if not runs.digest_of(facts):
            raise ValueError(
                f"{folder / file} does not say what {path} was judged on: restore it, or run again"
            )
        if differing := runs.differing(noted[0], facts):
            raise ValueError(
                f"{paths[0]} and {path} were judged on different {kinds[0]} ({_called(noted[0])}, "
                f"{_called(facts)}; {differing}): name runs on the same"
            )


def _called(facts: dict[str, Any]) -> str:
    return str(facts.get("corpus", facts.get("series", "no name")))


def _names(paths: list[str]) -> list[str]:
    """The last part of each path; the whole, where two end alike."""
    last = [path.rstrip("/").rpartition("/")[2] for path in paths]
    return last if len(set(last)) == len(last) else paths


def _data(
    path: str, folder: Path, script: str, num_tokens: int, has_others: bool, given: Given
) -> dict[str, Any]:
    """The data of one run: of the page in its folder, where that is of this run still, or made anew."""
    if script == "ablate":
        from experiments.ablation import sweep_page

        return sweep_page.data_of_folder(folder)
    if Path(path) == folder:  # no checkpoint is named
        stored = document.read_page(folder / document.PAGE)
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

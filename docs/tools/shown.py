"""Run the commands whose results the README and the pages show, and record them.

    python -m docs.tools.shown                 # all of them: about seven minutes on two quiet cores
    python -m docs.tools.shown --only=sine     # one; the others stay as they are recorded

Writes benchmarks/results/shown.json: of each command its summary (the last line it prints), what else it
printed, and the processor and versions that it ran with. The learning curve and the horizon curve of the demo
become pictures of the pages. `python -m docs.tools.figures` then writes the pages.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measure import hardware, timed
from lmseq.files import read_json, to_json, write_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "shown.json"
PICTURES = ROOT / "docs" / "pictures"

# In this order: some read the runs of those before.
COMMANDS = {
    "demo": "train_lm --preset=python_docs --workdir=runs/demo",
    "score": 'score_text --run=runs/demo --text="the object" --text="object the"',
    "sample": 'sample_text --run=runs/demo --prompt="Class " --num_tokens=150 --temperature=0.6',
    "counts": "train_ngram --order=8 --discount_fallback --workdir=runs/counts",
    "mixed": "mix_models --runs=runs/counts,runs/demo --workdir=runs/mixed",
    "ptb": "train_ngram --corpus=ptb --level=word --order=5 --workdir=runs/ptb",
    "sine": "predict_series --preset=sine --workdir=runs/sine",
    "logistic": "predict_series --preset=one_step --series=logistic --workdir=runs/logistic",
    "ar": "predict_series --series=ar --coefficients=0.6,-0.3,0.2 --model=linear --tau=3 --workdir=runs/ar",
    "m4": "predict_series --preset=m4_hourly --workdir=runs/m4",
    "next": "forecast --run=runs/m4 --horizon=48 --workdir=runs/next",
    "etth1": "predict_series --preset=etth1_96 --workdir=runs/etth1",
    "tau": "ablate --experiment=predict_series --fixed=preset=one_step --sweep=tau=1,2,4,8,16 --seeds=8 "
    "--compare=tau=4 --workdir=runs/tau",
}
DRAWN = {
    "demo": ("loss.png", "horizon.png"),
    "counts": ("orders.png",),
    "sine": ("forecast.png", "error_curve.png"),
    "tau": ("ablation.png",),
}


def quickstart() -> str:
    """The code of the README's quickstart."""
    text = (ROOT / "docs" / "templates" / "README.md").read_text(encoding="utf-8")
    return text.split("```python\n", 1)[1].split("```", 1)[0]


def versions() -> dict[str, str]:
    """Of Python, whose documentation is the demo's text, and of what computes."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("jax", "jaxlib", "flax")
    }


def run(words: list[str], folder: Path) -> tuple[str, str]:
    """What a command prints on stdout and on stderr, run in a folder, whose path is left out."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(words)} failed: {done.stderr[-500:]}")
    here = f"{folder.resolve()}/"
    return done.stdout.replace(here, ""), done.stderr.replace(here, "")


def record(name: str, folder: Path) -> dict[str, Any]:
    """One command run in `folder`: its summary and what it printed above that."""
    if name == "quickstart":
        seconds, (stdout, _) = timed(lambda: run([sys.executable, "-c", quickstart()], folder))
        return {"lines": stdout.splitlines(), "seconds": seconds}
    command = f"{sys.executable} -m experiments.{COMMANDS[name]}"
    stdout, stderr = run(["sh", "-c", command], folder)
    *lines, last = stdout.splitlines()
    told = [line.rstrip() for line in stderr.splitlines() if "|" not in line or "█" not in line]
    for picture in DRAWN.get(name, ()):
        for found in (folder / "runs" / name).glob(picture):
            PICTURES.mkdir(exist_ok=True)
            shutil.copyfile(found, PICTURES / f"{name}_{picture}")
    return {"command": COMMANDS[name], "lines": lines, "told": told, "summary": json.loads(last)}


def main() -> None:
    """Run what was asked for, and write the record after each command."""
    names = [*COMMANDS, "quickstart"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=names, help="one command; may be repeated")
    parser.add_argument("--runs", help="folder to run in, which is kept; default: a temporary one")
    asked = parser.parse_args()
    found = read_json(RESULTS) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.runs or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in asked.only or names:
            print(name, flush=True)
            found[name] = record(name, folder)
            found |= {"hardware": hardware(), "versions": versions()}
            write_text(RESULTS, to_json(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

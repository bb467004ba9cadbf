"""The article's claims: each measured, drawn and judged.

    python -m experiments.claims --all --quick --workdir=runs/claims
    python -m experiments.claims --name=truncation --order=3 --vocab_size=5 --workdir=runs/truncation

`--name` runs one claim, with the flags of its own script (`--name=truncation --help` lists them). `--all`
runs every claim in a process of its own, in DIR/NAME, and writes DIR/claims.md: verdicts, the measurements
behind them, and pictures. The exit status is 1 if a claim fails. Interrupted runs go on.
"""

import contextlib
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments.frame.console import say
from experiments.frame.start import seconds
from experiments.frame.workdir import finish, locked
from lmseq.files import read_json, write_text

NAMES = (
    "iid_or_sequence",
    "truncation",
    "window_or_state",
    "error_growth",
    "chain_rule",
    "counting_walls",
    "size",
    "zipf",
)
FLAGS = ("workdir", "all", "name", "quick", "corpus", "seed", "docs")
HAVE_CORPUS = ("iid_or_sequence", "error_growth", "counting_walls", "size", "zipf")


def asked_name(arguments: list[str]) -> str | None:
    """The claim that the command line names, and with it takes that claim's flags; else None."""
    joined = " ".join(arguments)
    found = re.findall(r"(?:^|\s)--?name[=\s](\S+)", joined)
    return found[-1] if found else None


def define_flags() -> None:
    """The flags of a run of all claims."""
    flags.DEFINE_string("workdir", None, "folder of the runs: created or continued")
    flags.DEFINE_bool("all", False, "run every claim")
    flags.DEFINE_string("name", None, f"run one claim, with its script's flags: {', '.join(NAMES)}")
    flags.DEFINE_bool("quick", False, "fewer seeds, fewer steps, less data: all claims in 15 minutes")
    flags.DEFINE_string("corpus", None, "text of all claims that have one, instead of each one's own")
    flags.DEFINE_integer("seed", None, "first seed of all claims, instead of 0", lower_bound=0)
    flags.DEFINE_string("docs", None, "folder that claims.md and the pictures are also copied to")


def command_of(name: str, workdir: Path) -> list[str]:
    """What runs a claim."""
    words = ["python", "-m", f"experiments.claims.{name}", f"--workdir={workdir / name}"]
    words += ["--quick"] * app.FLAGS.quick
    if app.FLAGS.corpus and name in HAVE_CORPUS:
        words.append(f"--corpus={app.FLAGS.corpus}")
    if app.FLAGS.corpus and name == "chain_rule":
        words.append(f"--corpora={app.FLAGS.corpus}")
    if app.FLAGS.seed is not None:
        words.append(f"--seed={app.FLAGS.seed}")
    return words


def measure(name: str, workdir: Path) -> dict[str, Any]:
    """The summary of a claim's run; of one that broke off, why it did, as a failure."""
    words = command_of(name, workdir)
    summary_path = workdir / name / "summary.json"
    say(f"\n{name}: {' '.join(words[1:])}")
    process = subprocess.Popen([sys.executable, *words[1:]], stdout=subprocess.PIPE, text=True)
    try:
        process.communicate()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise KeyboardInterrupt
    if process.returncode in (0, 1) and summary_path.exists():
        return read_json(summary_path)
    reason = f"the script ended with status {process.returncode}: give its command alone to see why"
    return {"claim": reason, "verdict": "fails", "checks": [], "pictures": [], "measuring_seconds": 0.0}


def cell(value: float | None) -> str:
    """A number as a table has it."""
    return "" if value is None else f"{value:.4g}"


def section(name: str, command: str, summary: dict[str, Any]) -> list[str]:
    """What claims.md says of one claim: sentence, checks, pictures, command."""
    lines = [f"## {name}: {summary['verdict']}", "", summary["claim"], ""]
    if summary["checks"]:
        lines += ["| measured | mean | 95 % interval | expected | |", "|---|---|---|---|---|"]
    for check in summary["checks"]:
        bounds = [f"at least {cell(check['at_least'])}"] * (check["at_least"] is not None)
        bounds += [f"at most {cell(check['at_most'])}"] * (check["at_most"] is not None)
        what = check["what"].replace("|", "\\|")
        between = "" if check["low"] == check["high"] else f"{cell(check['low'])} to {cell(check['high'])}"
        found = f"{cell(check['mean'])} | {between}"
        lines.append(f"| {what} | {found} | {', '.join(bounds)} | {check['verdict']} |")
    lines += ["", *(f"![{name}](claims/{name}_{picture})" for picture in summary["pictures"]), ""]
    return [*lines, f"`{command}`, {summary['measuring_seconds']:.0f} s of measuring", ""]


def write_report(folder: Path, workdir: Path, found: dict[str, dict[str, Any]]) -> None:
    """claims.md, and the pictures in claims/ beside it."""
    pictures = folder / "claims"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Claims",
        "",
        "Generated by `python -m experiments.claims --all`; each row was measured by the command under it.",
        "Intervals are over seeds or, as each measurement says, over parts of a text or origins in it.",
        "",
        "| claim | verdict | |",
        "|---|---|---|",
    ]
    for name, summary in found.items():
        verdict = summary["verdict"]
        lines.append(f"| {summary['claim']} | {verdict} | [{name}](#{name}-{verdict}) |")
    lines.append("")
    for name, summary in found.items():
        words = command_of(name, Path("runs/claims"))
        lines += section(name, " ".join(words), summary)
        for picture in summary["pictures"]:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(workdir / name / picture, pictures / f"{name}_{picture}")
    write_text(folder / "claims.md", "\n".join(lines))


def main() -> int:
    if not app.FLAGS.all:
        raise ValueError(f"expected --all, or --name with one of {', '.join(NAMES)}")
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the runs are written to")
    workdir = Path(app.FLAGS.workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a file")
    with locked(workdir):
        found = {}
        for name in NAMES:
            found[name] = measure(name, workdir)
            say(f"{name}: {found[name]['verdict']}")
            write_report(workdir, workdir, found)
        if app.FLAGS.docs:
            write_report(Path(app.FLAGS.docs), workdir, found)
        verdicts = {name: summary["verdict"] for name, summary in found.items()}
        say(f"{workdir}: claims.md  claims/*.png")
        finish(workdir, {"verdicts": verdicts, "wall_seconds": seconds()})
    return int("fails" in verdicts.values())


if __name__ == "__main__":
    chosen = asked_name(sys.argv[1:])
    if chosen in NAMES:
        rest = [a for a in sys.argv[1:] if not re.fullmatch(r"--?name(=.*)?", a) and a != chosen]
        sys.argv = [sys.argv[0], *rest]
        runpy.run_module(f"experiments.claims.{chosen}", run_name="__main__", alter_sys=True)
    else:
        define_flags()
        app.run(main, __doc__, list(FLAGS))

"""The article's claims: each measured, drawn and judged.

    python -m experiments.claims --all --quick --workdir=runs/claims
    python -m experiments.claims --name=truncation --order=3 --vocab_size=5 --workdir=runs/truncation

`--name` runs one claim, with the flags of its own script (`--name=truncation --help` lists them). `--all`
runs every claim in a process of its own, in DIR/NAME, and writes DIR/claims.md: verdicts, the measurements
behind them, and pictures. The exit status is 1 if a claim fails. Interrupted runs go on.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from experiments.claims.catalogue import CLAIMS
from experiments.claims.claim import Claim
from experiments.claims.page import write_page
from experiments.frame.command import Command, attempt_command, end
from experiments.frame.console import say
from experiments.frame.experiment import attempt_experiment, flag_names
from experiments.frame.flags import Given
from experiments.frame.processes import wait_for
from experiments.frame.start import seconds
from experiments.frame.workdir import finish
from lmseq.config.knobs import at_least, knob
from lmseq.files import locked, read_json

NAMES = ", ".join(claim.name for claim in CLAIMS)


@dataclass(frozen=True)
class ClaimsOptions:
    """Which claims are run, on what, and where to."""

    workdir: str = knob("", "folder of the runs: created or continued", is_path=True)
    all: bool = knob(False, "run every claim")
    name: str = knob("", f"run one claim, with its script's flags: {NAMES}")
    quick: bool = knob(False, "fewer seeds, fewer steps, less data: all claims in 15 minutes")
    corpus: str = knob("", "text of all claims that have one, instead of each one's own", is_path=True)
    seed: int = knob(-1, "first seed of all claims, instead of each one's own; -1: as it is")
    docs: str = knob("", "folder that claims.md and the pictures are also copied to", is_path=True)


def command_of(claim: Claim, workdir: Path, options: ClaimsOptions) -> list[str]:
    """What runs a claim."""
    known = flag_names(claim)
    words = ["python", "-m", claim.module, f"--workdir={workdir / claim.name}"]
    words += ["--quick"] * options.quick
    for flag in ("corpus", "corpora"):
        if options.corpus and flag in known:
            words.append(f"--{flag}={options.corpus}")
    if options.seed >= 0 and "seed" in known:
        words.append(f"--seed={options.seed}")
    return words


def measure(claim: Claim, workdir: Path, options: ClaimsOptions) -> dict[str, Any]:
    """The summary of a claim's run; of one that broke off, why it did, as a failure."""
    words = command_of(claim, workdir, options)
    summary_path = workdir / claim.name / "summary.json"
    say(f"\n{claim.name}: {' '.join(words[1:])}")
    # A group of its own: from Ctrl-C it would else get the signal twice, which ends it at once.
    status = wait_for(
        subprocess.Popen([sys.executable, *words[1:]], stdout=subprocess.DEVNULL, process_group=0)
    )
    if status in (0, 1) and summary_path.exists():
        return read_json(summary_path)
    reason = f"the script ended with status {status}: give its command alone to see why"
    return {"claim": reason, "verdict": "fails", "checks": [], "pictures": [], "measuring_seconds": 0.0}


def act(options: ClaimsOptions, given: Given) -> int:
    """Run every claim."""
    at_least(-1, seed=options.seed)
    if not options.all:
        raise ValueError(f"expected --all, or --name with one of {NAMES}")
    if not options.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the runs are written to")
    workdir = Path(options.workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a file")
    with locked(workdir):
        found: dict[str, dict[str, Any]] = {}
        commands = {claim.name: " ".join(command_of(claim, Path("runs/claims"), options)) for claim in CLAIMS}
        for claim in CLAIMS:
            found[claim.name] = measure(claim, workdir, options)
            say(f"{claim.name}: {found[claim.name]['verdict']}")
            write_page(workdir, workdir, found, commands)
        if options.docs:
            write_page(Path(options.docs), workdir, found, commands)
        verdicts = {name: summary["verdict"] for name, summary in found.items()}
        say(f"{workdir}: claims.md  claims/*.png")
        finish(workdir, {"verdicts": verdicts, "wall_seconds": seconds()})
    return int("fails" in verdicts.values())


def named(arguments: Sequence[str]) -> tuple[Claim | None, list[str]]:
    """The claim that --name names, and the arguments that are left for it."""
    found = flags.FlagValues()
    flags.DEFINE_string("name", "", "", flag_values=found)
    try:
        left = found(["", *arguments], known_only=True)[1:]
    except flags.Error:  # a name without its value: said when all flags are read
        return None, list(arguments)
    return next((claim for claim in CLAIMS if claim.name == found["name"].value), None), left


def attempt(arguments: Sequence[str]) -> int:
    """One claim with its own flags, or all of them."""
    claim, left = named(arguments)
    if claim is not None:
        return attempt_experiment(claim, left)
    return attempt_command(Command(__doc__, ClaimsOptions, act), arguments)


if __name__ == "__main__":
    end(attempt)

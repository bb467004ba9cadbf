"""Forecasts beside those of other libraries: how good, and in how many seconds.

    pip install -r benchmarks/requirements.txt
    LMSEQ_DATA_DIR=DATA python -m benchmarks.forecasting

M4's hourly series, ETTh1 and the series that come with statsmodels, as `forecast_tasks` sets them; rivals
and their settings are in `forecast_peers`. Everybody works in a process of its own, timed from its start
until all is written. Ours is `experiments.predict_series` with each preset for that data, which also judges
naive rivals, draws pictures and keeps the model; where there is no preset it is the linear map. What takes
less than --again seconds is run --rounds times, in turns, and medians count; seconds of a core say more than
those of the clock where others use the machine. Who takes more than --limit
seconds is ended, and its row says so. Models that would take hours forecast a sample, in a table of its own.
--quick leaves out slow ones. A rival that is not installed is left out, in one line. The last line is a JSON
object with `rows`, and with `verdicts`: who is better where.
"""

import json
import os
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from benchmarks import forecast_peers, forecast_tasks
from benchmarks.forecast_tasks import STATSMODELS, Task
from benchmarks.measure import hardware, publish, run_process, versions
from experiments.frame.command import main_with_flags
from experiments.frame.console import say
from experiments.frame.presets import PREDICT_SERIES
from experiments.frame.start import data_folders
from lmseq.files import to_json, write_text

SAMPLES = {"m4_hourly_sample": "m4_hourly", "etth1_96_sample": "etth1_96"}
TASKS = ("m4_hourly", "etth1_96", *STATSMODELS, *SAMPLES)
flags.DEFINE_string("tasks", ",".join(TASKS), "what is forecast; the rows of others stay in --output")
flags.DEFINE_integer("sample", 6, "series of M4 in the sample that slow models forecast")
flags.DEFINE_float("limit", 300.0, "seconds after which a process is ended")
flags.DEFINE_integer("rounds", 3, "turns, of which the median counts")
flags.DEFINE_float("again", 30.0, "seconds above which a process has one turn only")
flags.DEFINE_bool("quick", False, "without slow models and samples, one turn")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["tasks", "sample", "limit", "rounds", "again", "quick", "output"]
FIGURES = ("smape", "mase", "mse", "mae")
OURS = "lmseq"  # what our names begin with
# Of M4 whole, AutoARIMA took 70,000 minutes of a core; the others fit long series for minutes each.
SLOW_ONES = {"m4_hourly": ("AutoARIMA",), "etth1_96": ("AutoTheta", "AutoETS", "AutoARIMA")}


# What is judged by: of M4 what it ranked by, of ETT what papers of long horizons give.
JUDGED = {"m4_hourly": ("smape", "mase"), "etth1_96": ("mse", "mae")}


class Work(NamedTuple):
    """Who forecasts: a rival by name, or ours with a preset and more flags."""

    name: str
    preset: str = ""
    more: tuple[str, ...] = ()

    def command(self, task: Path, folder: Path) -> list[str]:
        """The process that forecasts the task in a file, and leaves in a folder what it finds."""
        if self.preset:
            script = ["experiments.predict_series", f"--preset={self.preset}", f"--workdir={folder / 'run'}"]
            return [sys.executable, "-m", *script, *self.more]
        places = [str(task), str(folder / "points.npz")]
        return [sys.executable, "-m", "benchmarks.forecast_peers", self.name, *places]

    def figures(self, task: Task, folder: Path) -> dict[str, float]:
        """What it came to, from what it left there."""
        if self.preset:
            return figures_of_run(folder / "run" / "series.csv", task.places)
        return forecast_tasks.score(task, forecast_tasks.read_points(folder / "points.npz"))


# Who takes part


def ours_of(task: str) -> list[Work]:
    """A preset each, or the linear map for data without one."""
    whole = SAMPLES.get(task, task)
    names = [preset.__name__ for preset in PREDICT_SERIES if preset.__name__.startswith(whole)]
    more = (f"--origin_step={4 * forecast_tasks.HOURS}",) if task == "etth1_96_sample" else ()
    return [Work(f"{OURS}, {name}", name, more) for name in names] or [*map(Work, forecast_peers.OURS)]


def rivals_of(task: str, quick: bool) -> list[Work]:
    """Those that can forecast the task in reasonable time and are installed."""
    slow, lacking = SLOW_ONES.get(SAMPLES.get(task, task), ()), missing()
    return [
        Work(name)
        for name, peer in forecast_peers.PEERS.items()
        if (name in slow) == (task in SAMPLES) and not (quick and peer.slow) and peer.package not in lacking
    ]


def missing() -> list[str]:
    """Packages of rivals that are not installed."""
    packages = {peer.package for peer in forecast_peers.PEERS.values()}
    return sorted(package for package in packages if find_spec(package) is None)


# What they come to


def figures_of_run(table: Path, places: tuple[int, ...]) -> dict[str, float]:
    """The figures of a run's model over some of its series, from its series.csv."""
    import pandas

    found = pandas.read_csv(table, index_col=0)
    own = found.columns[0].rpartition("_")[0]
    return {name: float(found[f"{own}_{name}"].iloc[list(places)].mean()) for name in FIGURES}


def turn(task: Task, work: Work, limit: float) -> dict[str, Any]:
    """One run: its seconds and figures, or why there are none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forecast_tasks.write_task(task, folder / "task.npz")
        try:
            done = run_process(work.command(folder / "task.npz", folder), limit=limit)
            spent = {"seconds": done.seconds, "cpu_seconds": done.cpu_seconds}
            return spent | work.figures(task, folder)
        except TimeoutError:
            return {"failed": f"more than {limit:g} s"}
        except ValueError as error:
            return {"failed": " ".join(str(error).split())[-200:]}


def rows_of(task: Task, works: list[Work], rounds: int, again: float, limit: float) -> list[dict[str, Any]]:
    """A row each, with the median of its turns."""
    turns: dict[str, list[dict[str, Any]]] = {work.name: [] for work in works}
    for number in range(rounds):
        for work in works:
            before = turns[work.name]
            if number == 0 or before[0].get("seconds", again) < again:
                before.append(turn(task, work, limit))
                say(f"{task.name}, turn {number + 1} of {work.name}: {_told(before[-1])}")
    return [row_of(task, name, found) for name, found in turns.items()]


def row_of(task: Task, name: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The first turn's figures, with the median of the seconds; the reason where any turn failed."""
    failed = [found for found in turns if "failed" in found]
    facts = {"task": task.name, "name": name, "turns": len(turns), "load": os.getloadavg()[1]}
    facts |= {"num_series": len(task.values), "num_origins": task.num_origins, "horizon": task.horizon}
    if failed:
        return facts | failed[0]
    clocks = ("seconds", "cpu_seconds")
    return facts | turns[0] | {clock: statistics.median(turn[clock] for turn in turns) for clock in clocks}


def judged(task: str) -> tuple[str, ...]:
    """The figures that a task is judged by."""
    return JUDGED.get(SAMPLES.get(task, task), ("mase",))


def verdict(rows: list[dict[str, Any]], figure: str) -> dict[str, Any]:
    """Who is best by a figure and who is fastest in the rows of a task, and who is both beside our best."""
    done = [row for row in rows if "failed" not in row]
    ours = [row for row in done if row["name"].startswith(OURS)]
    found: dict[str, Any] = {"task": rows[0]["task"], "figure": figure}
    if not done:
        return found
    found["best"] = min(done, key=lambda row: row[figure])["name"]
    found["fastest"] = min(done, key=lambda row: row["seconds"])["name"]
    if ours:
        best = min(ours, key=lambda row: row[figure])
        found["ours"] = best["name"]
        found["better_and_faster"] = [
            row["name"]
            for row in done
            if row not in ours and row[figure] < best[figure] and row["seconds"] < best["seconds"]
        ]
    return found


def joined(record: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A record with the rows of a task, and the verdicts on them, in place of what it had of that task."""
    task = rows[0]["task"]
    kept = {key: [row for row in record.get(key, ()) if row["task"] != task] for key in ("verdicts", "rows")}
    verdicts = [verdict(rows, figure) for figure in judged(task)]
    return record | {"verdicts": kept["verdicts"] + verdicts, "rows": kept["rows"] + rows}


# What is told


def _told(found: dict[str, Any]) -> str:
    if "failed" in found:
        return found["failed"]
    spent = f"{found['seconds']:8.1f} s, {found['cpu_seconds']:.1f} s of a core"
    return spent + "".join(f"   {name} {found[name]:.4g}" for name in FIGURES)


def tell(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> None:
    """The table of a task, and who is better where."""
    first = rows[0]
    say(
        f"\n{first['task']}: {first['num_series']} series, {first['num_origins']:,} origins, "
        f"{first['horizon']} steps ahead"
    )
    for row in sorted(rows, key=lambda row: row.get(verdicts[0]["figure"], float("inf"))):
        say(f"  {row['name']:<24}{_told(row)}")
    for found in verdicts:
        both = ", ".join(found.get("better_and_faster", ())) or "nobody"
        say(
            f"  best by {found['figure']}: {found.get('best')}; fastest: {found.get('fastest')}; "
            f"at once better and faster than {found.get('ours')}: {both}"
        )


def main() -> int:
    given = flags.FLAGS
    chosen = [name.strip() for name in given.tasks.split(",")]
    if unknown := sorted(set(chosen) - set(TASKS)):
        raise ValueError(f"expected --tasks of {', '.join(TASKS)}, got {', '.join(unknown)}")
    if min(given.sample, given.rounds) < 1 or given.limit <= 0 or given.again < 0:
        raise ValueError("expected sample and rounds of at least 1, limit above 0 and again of at least 0")
    if lacking := missing():
        say(f"without {', '.join(lacking)}: pip install -r benchmarks/requirements.txt")
    if given.quick:
        chosen = [name for name in chosen if name not in SAMPLES]
    makers = forecast_tasks.makers(next(filter(None, data_folders())), given.sample)
    tasks = [makers[name]() for name in chosen]  # all of them first: a file may be missing
    packages = sorted({peer.package for peer in forecast_peers.PEERS.values()})
    record = json.loads(Path(given.output).read_text()) if Path(given.output).is_file() else {}
    record |= {"hardware": hardware(), "versions": versions("jax", *packages)}
    for task in tasks:
        works = [*ours_of(task.name), *rivals_of(task.name, given.quick)]
        rounds = 1 if given.quick else given.rounds
        record = joined(record, rows_of(task, works, rounds, given.again, given.limit))
        tell(*([row for row in record[key] if row["task"] == task.name] for key in ("rows", "verdicts")))
        if given.output:  # what is there stays, if a later task is stopped
            write_text(Path(given.output), to_json(record, indent=1) + "\n")
    publish(record, given.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)

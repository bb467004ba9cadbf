"""On real series a window suffices: a linear map of it forecasts as well as a state that has read all.

    python -m experiments.claims.windows_suffice --workdir=runs/windows
    python -m experiments.claims.windows_suffice --series=sunspots,load.csv --workdir=runs/mine

A linear map of the last tau values, in closed form, forecasts a whole season at once; its ridge and the tau
that counts are chosen on the validation part. A recurrent net, trained as predict_series does by default,
forecasts as much at once and has read all that came before; its size and its checkpoint are chosen on the
validation part. The errors of maps by tau are drawn, with the net's and, of ETTh1 (where it is found in
LMSEQ_DATA_DIR), published ones as levels. The claim is about each of the series: it fails where the net is
better. Intervals are over trainings of the net. Another test part would differ by more. The net reads values
as they are, and the map those of a window less the last: a rising series favours the map for that alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.console import numbers
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config.kinds import CellKind
from lmseq.config.knobs import knob


@dataclass(frozen=True)
class WindowsConfig:
    """The series, the windows, and the size of each training."""

    series: str = knob(
        "",
        "series as in predict_series, between commas; empty: ett/ETTh1.csv, if it is there, and those of "
        "statsmodels",
        is_path=True,
    )
    windows: str = knob("1,2,3,6,12,24,48,96,168,336,720", "values that the maps see, ascending")
    cell: CellKind = knob("gru", "recurrent cell")
    hidden_sizes: str = knob("16,64", "units of each of the net's two layers, of which validation chooses")
    num_read: int = knob(168, "values that the net reads before it is trained on predictions")
    num_train_steps: int = knob(300, "optimiser steps of each training, of which the best checkpoint counts")
    num_seeds: int = knob(4, "trainings of each net; at least 2")
    seed: int = knob(0, "first seed")


def check(config: WindowsConfig) -> WindowsConfig:
    """ValueError for a setting out of range."""
    windows = numbers(config.windows, "windows")
    if sorted(set(windows)) != windows:
        raise ValueError(f"expected windows in ascending order, each once, got {windows}")
    sizes = {f"hidden_size_{size}": size for size in numbers(config.hidden_sizes, "hidden_sizes")}
    knobs.at_least(1, knobs.MOST_UNITS, longest_window=windows[-1], num_read=config.num_read, **sizes)
    knobs.at_least(2, num_seeds=config.num_seeds, num_train_steps=config.num_train_steps)
    knobs.at_least(0, seed=config.seed)
    return config


def tasks_of(config: WindowsConfig) -> list[Any]:
    """The series, each read and split. Raises ValueError for one that is not there, or is named twice."""
    from experiments.claims import real_series

    names = [name.strip() for name in config.series.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise ValueError(f"expected --series=NAME,NAME,... with each once, got {config.series!r}")
    return [real_series.load_task(name) for name in names or real_series.names_here()]


def windows_of(config: WindowsConfig, task: Any) -> list[int]:
    """The windows that leave half of the training part to be moved over; one at least."""
    windows = numbers(config.windows, "windows")
    return [tau for tau in windows if tau + task.horizon <= task.train_points // 2] or windows[:1]


def measure(config: WindowsConfig, workdir: Path) -> dict[str, Any]:
    """Errors of maps by window and of nets by seed, series by series."""
    from experiments.claims import real_series
    from experiments.frame.measurements import measured

    tasks = {task.name: task for task in tasks_of(config)}
    seeds = range(config.seed, config.seed + config.num_seeds)
    sizes = numbers(config.hidden_sizes, "hidden_sizes")
    units: list[dict[str, Any]] = []
    for name in tasks:
        units += [{"series": name, "model": "map"}]
        units += [{"series": name, "model": config.cell, "hidden_size": size} for size in sizes]

    def figures(unit: dict[str, Any]) -> dict[str, Any]:
        task = tasks[unit["series"]]
        if unit["model"] == "map":
            rows = [{"tau": tau, **real_series.map_errors(task, tau)} for tau in windows_of(config, task)]
            return {"horizon": task.horizon, "naive": real_series.naive_error(task), "rows": rows}
        net = real_series.NetSettings(
            config.cell, unit["hidden_size"], config.num_read, config.num_train_steps
        )
        return real_series.net_errors(task, net, seeds)

    return judge(config, found_by_series(list(measured(workdir, units, figures))), workdir)


class Found(NamedTuple):
    """What was measured on one series: maps, a row a window, and the chosen net's test errors, one a seed."""

    series: str
    horizon: int
    naive: float
    rows: list[dict[str, Any]]
    net: list[float]

    @property
    def name(self) -> str:
        """The series, of a file without its folder and ending."""
        return Path(self.series).stem

    @property
    def chosen(self) -> dict[str, Any]:
        """The map whose window is best on the validation part."""
        return min(self.rows, key=lambda row: row["valid"])


def found_by_series(records: list[dict[str, Any]]) -> list[Found]:
    """The records series by series, with the net that is best on the validation part."""
    found = []
    for of_map in (record for record in records if record["model"] == "map"):
        nets = [each for each in records if each["series"] == of_map["series"] and each["model"] != "map"]
        net = min(nets, key=lambda each: float(np.mean(each["valid"])))
        found.append(Found(of_map["series"], of_map["horizon"], of_map["naive"], of_map["rows"], net["test"]))
    return found


def geometric(errors: list[float]) -> Any:
    """The geometric mean of errors and its interval, as the check compares their logarithms."""
    from experiments.frame.intervals import Interval, interval

    return Interval(*np.exp(interval(np.log(errors))).tolist())


def judge(config: WindowsConfig, found: list[Found], workdir: Path) -> dict[str, Any]:
    """The net's error over that of the map whose window validation chose, the picture, and the verdict."""
    from experiments.claims.verdicts import Check, conclude
    from experiments.frame.intervals import flat, interval

    summary: dict[str, Any] = {}
    checks = []
    for each in found:
        tau, error = each.chosen["tau"], each.chosen["test"]
        summary |= {
            f"{each.name}_horizon": each.horizon,
            f"{each.name}_window": tau,
            f"{each.name}_map_mse": error,
            f"{each.name}_naive_mse": each.naive,
            **flat(f"{each.name}_{config.cell}_mse", geometric(each.net)),
        }
        what = f"{each.name}, {each.horizon} ahead: ln of MSE, {config.cell} over map of {tau} values"
        checks.append(Check(what, interval(np.log(np.array(each.net) / error)), low=0.0))
    pairs = zip(found, checks, strict=True)
    summary["state_buys"] = [each.name for each, check in pairs if check.verdict == "fails"]
    draw(config, found, workdir)
    return {**summary, **conclude(checks)}


def draw(config: WindowsConfig, found: list[Found], workdir: Path) -> None:
    """windows.png: errors of maps against the window, the net's and others' as levels."""
    from experiments.claims.real_series import ETT, PUBLISHED
    from lmseq import plotting
    from lmseq.plotting import Curve, Panel

    drawn = []
    for each in found:
        taus = [row["tau"] for row in each.rows]
        level, low, high = ([value] * 2 for value in geometric(each.net))
        curves = [
            Curve("linear map of tau values", taus, [row["test"] for row in each.rows], style="C0o-"),
            Curve(f"{config.cell}, all the past", [taus[0], taus[-1]], level, low, high, "C1-", "95 %"),
        ]
        levels = {"season or value before": each.naive} | (PUBLISHED if each.series == ETT else {})
        drawn.append(
            Panel(
                f"{each.name}, {each.horizon} steps ahead",
                "tau, values that the map sees",
                "MSE of standardised values, test part",
                curves,
                levels,
                log="xy",
                places=taus,
            )
        )
    plotting.save_figure(plotting.draw_panels(drawn), workdir / CLAIM.pictures[0])


def facts(config: WindowsConfig) -> dict[str, Any]:
    """The series, all of them read, so that what is missing is said before anything is written."""
    return {"series": [task.panel.facts() for task in tasks_of(config)]}


CLAIM = make_claim(
    module="experiments.claims.windows_suffice",
    doc=__doc__,
    sentence=(
        "On real series a window suffices: a linear map of it forecasts as well as a hidden state that has "
        "read all the past."
    ),
    pictures=("windows.png",),
    config=WindowsConfig,
    quick={"hidden_sizes": "16", "num_seeds": 3, "num_read": 96, "num_train_steps": 150},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)

"""What `benchmarks.forecasting` sets: series, where they are forecast from, and how forecasts are judged."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmseq.accuracy import mean_known, seasonal_scale, smape
from lmseq.data.panel import Reading, read_panel
from lmseq.data.series_files import bundled

STATSMODELS = {"sunspots": 11, "co2": 52, "nile": 10, "elnino": 12}  # steps ahead
TEST_SHARE = 0.2
HOURS = 24


class Task(NamedTuple):
    """Series to forecast, each from some origins.

    values: (T_n,) float64 each, with what is to be forecast. starts: the first origin of each; what stands
    before it may be fitted. step: between origins, the last of which has `horizon` values after it. units: by
    how many values from the beginning errors are standardised. period: steps of the season, 1 for none.
    places: which of the series of the data they are.
    """

    name: str
    horizon: int
    period: int
    step: int
    starts: tuple[int, ...]
    units: tuple[int, ...]
    values: tuple[np.ndarray, ...]
    places: tuple[int, ...]

    def origins(self, place: int) -> range:
        """Those of one series: as many values are seen."""
        return range(self.starts[place], len(self.values[place]) - self.horizon + 1, self.step)

    @property
    def num_origins(self) -> int:
        """Of all series together."""
        return sum(len(self.origins(place)) for place in range(len(self.values)))

    def windows(self, length: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The last values before every origin, at most `length`, and the number of the series of each."""
        found = [
            (place, values[max(0, origin - length) : origin])
            for place, values in enumerate(self.values)
            for origin in self.origins(place)
        ]
        return np.array([place for place, _ in found]), [seen for _, seen in found]

    def split(self, points: np.ndarray) -> list[np.ndarray]:
        """Forecasts of all origins (O, K), by series."""
        counts = [len(self.origins(place)) for place in range(len(self.values))]
        return np.split(points, np.cumsum(counts)[:-1])


def score(task: Task, points: Sequence[np.ndarray]) -> dict[str, float]:
    """sMAPE, MASE, and MSE and MAE of standardised values, of forecasts (O_n, K) of each series.

    Means over series of means over origins and horizons. Raises ValueError for forecasts of another shape, or
    that are not numbers.
    """
    rows = []
    for place, (values, found) in enumerate(zip(task.values, points, strict=True)):
        places = np.array(task.origins(place))
        if found.shape != (len(places), task.horizon) or not np.isfinite(found).all():
            raise ValueError(
                f"expected {len(places)} times {task.horizon} numbers for series {place}, got {found.shape}"
            )
        targets = values[places[:, None] + np.arange(task.horizon)]
        distance = np.abs(found - targets)
        unit = seasonal_scale(values[: task.starts[place], None], task.period)[0]
        deviation = values[: task.units[place]].std()
        sizes = distance / (unit if unit > 0 else np.nan), (distance / deviation) ** 2, distance / deviation
        rows.append([smape(found, targets).mean(), *(size.mean() for size in sizes)])
    means = mean_known(np.array(rows), 0)
    return dict(zip(("smape", "mase", "mse", "mae"), map(float, means), strict=True))


# The tasks


def there(folder: Path, name: str) -> Path:
    """A file in the folder of data; ValueError where it is not."""
    if not (folder / name).is_file():
        raise ValueError(f"{name} is not in {folder}: set LMSEQ_DATA_DIR to a folder that has it")
    return folder / name


def m4_hourly(folder: Path, number: int = 0) -> Task:
    """M4's hourly series, 48 hours ahead from the end of the training file; or some, evenly spread."""
    train, test = (there(folder, f"m4/Hourly-{part}.csv") for part in ("train", "test"))
    panel = read_panel(train, test_path=test)
    every = sample(len(panel.series), number or len(panel.series))
    known = [panel.series[place].values[:, 0] for place in every]
    values = tuple(
        np.concatenate([seen, panel.test[place].values[:, 0]])
        for seen, place in zip(known, every, strict=True)
    )
    ends = tuple(map(len, known))
    return Task("m4_hourly", 2 * HOURS, HOURS, 1, ends, ends, values, tuple(every.tolist()))


def sample(count: int, number: int) -> np.ndarray:
    """Places of some of `count` series, evenly spread."""
    return np.arange(number) * count // number


def etth1(folder: Path, step: int = 1) -> Task:
    """ETTh1's 7 columns, 96 hours ahead, parted as in the papers of long horizons."""
    panel = read_panel(there(folder, "ett/ETTh1.csv"), Reading(channels="independent"))
    train, valid, test = 8640, 2880, 2880
    values = tuple(each.values[: train + valid + test, 0] for each in panel.series)
    count = len(values)
    return Task(
        "etth1_96",
        4 * HOURS,
        HOURS,
        step,
        (train + valid,) * count,
        (train,) * count,
        values,
        (*range(count),),
    )


def of_statsmodels(name: str) -> Task:
    """One that comes with statsmodels, from every origin of its last fifth; gaps repeat the value before."""
    series = bundled(name, "previous")
    values = series.values[:, 0]
    start = len(values) - round(TEST_SHARE * len(values))
    return Task(name, STATSMODELS[name], max(1, series.period), 1, (start,), (start,), (values,), (0,))


def makers(folder: Path, number: int) -> dict[str, Callable[[], Task]]:
    """The tasks by name, each as what makes it; samples have `number` series, or every 96th origin."""
    return {
        "m4_hourly": lambda: m4_hourly(folder),
        "m4_hourly_sample": lambda: m4_hourly(folder, number)._replace(name="m4_hourly_sample"),
        "etth1_96": lambda: etth1(folder),
        "etth1_96_sample": lambda: etth1(folder, 4 * HOURS)._replace(name="etth1_96_sample"),
        **{name: lambda name=name: of_statsmodels(name) for name in STATSMODELS},
    }


# Files between processes


def write_task(task: Task, path: Path) -> None:
    """For `read_task`."""
    facts = {"facts": json.dumps(task._replace(values=())._asdict())}
    np.savez(path, **facts, **{f"values{place}": values for place, values in enumerate(task.values)})


def read_task(path: Path) -> Task:
    """What `write_task` wrote."""
    with np.load(path) as found:
        facts = json.loads(str(found["facts"]))
        values = tuple(found[f"values{place}"] for place in range(len(facts["starts"])))
    return Task(
        **facts | {name: tuple(facts[name]) for name in ("starts", "units", "places")} | {"values": values}
    )


def write_points(points: Sequence[np.ndarray], path: Path) -> None:
    """Forecasts of every series, for `read_points`."""
    np.savez(path, *points)


def read_points(path: Path) -> list[np.ndarray]:
    """What `write_points` wrote."""
    with np.load(path) as found:
        return [found[f"arr_{place}"] for place in range(len(found.files))]

"""Figures show what they were given, in texts that neither touch, nor cover data, nor leave the picture."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from matplotlib.dates import num2date
from matplotlib.figure import Figure
from scipy import stats

from experiments.claims import disorder_picture
from experiments.claims.window_or_state import recall_picture
from experiments.counts.orders_picture import draw_orders
from experiments.series import objectives_picture
from lmseq import errors, plotting
from lmseq.labels import log_places
from lmseq.plotting import Curve, Panel, draw_panels, horizon_curve, learning_curve, save_figure
from tests.pictures import faults, is_drawn_on, lines_of, said

RECORDS = [
    {"step": 5, "train_loss": 3.0},
    {"step": 10, "train_loss": 2.0, "valid_loss": 2.5},
    {"step": 15, "train_loss": 1.5},
    {"step": 20, "train_loss": 1.25, "valid_loss": 2.25, "sample": "text"},
]
LOG_PROBS = -np.random.default_rng(0).exponential(size=(40, 6))
TITLES = ("a title", "C_{$x$} and ^2$: my_file_of_prices", "W" * 120, "a title of very many words " * 8)


# The checker itself


def test_the_checker_sees_what_is_wrong():
    figure = Figure(layout="constrained")
    axes = figure.add_subplot(title="fine")
    assert not faults(figure)
    axes.annotate("over the data", (0.5, 0.5))
    axes.annotate("on it", (0.5, 0.5))
    axes.text(1.2, 1.0, "outside", in_layout=False)
    found = " ".join(faults(figure))
    assert "'over the data' touches 'on it'" in found and "'outside' leaves" in found
    assert "'on it' reaches over the data" in found


# Any panel

NUMBERS = st.one_of(st.floats(-1e9, 1e9), st.floats(0, 1), st.just(float("nan")), st.just(0.0))
NAMES = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60)


@st.composite
def panels(draw):
    def curve():
        x = sorted(draw(st.lists(st.floats(1e-4, 1e7), min_size=1, max_size=30, unique=True)))
        y = draw(st.lists(NUMBERS, min_size=len(x), max_size=len(x)))
        interval = [np.subtract(y, 1.0), np.add(y, 0.5)] if draw(st.booleans()) else []
        style, band = draw(st.sampled_from(["", "-", "o-", "k--"])), draw(NAMES) if interval else ""
        return Curve(draw(NAMES), x, y, *interval, style=style, band=band)

    curves = [curve() for _ in range(draw(st.integers(1, 7)))]
    levels = draw(st.dictionaries(NAMES, st.floats(-10, 10), max_size=2))
    ticks = draw(st.one_of(st.just([]), st.lists(NAMES, min_size=2, max_size=40)))
    if ticks:
        curves = [c._replace(x=np.arange(len(c.x)) % len(ticks)) for c in curves]
    log = draw(st.sampled_from(["", "y"] if ticks else ["", "x", "y", "xy"]))
    return Panel(draw(NAMES), draw(NAMES), draw(NAMES), curves, levels, log, ticks)


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(st.lists(panels(), min_size=1, max_size=5))
def test_texts_of_any_panels_keep_apart(found):
    figure = draw_panels(found)
    assert not faults(figure)
    for axes, panel in zip(figure.axes, found, strict=True):
        data = [np.stack(line.get_data()) for line in axes.get_lines()]
        for curve in panel.curves:
            expected = np.stack([np.asarray(curve.x, float), np.asarray(curve.y, float)])
            assert any(np.array_equal(one, expected, equal_nan=True) for one in data)


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("last", [2.0, 2.001, float("nan")])
def test_curves_that_end_together(title, last):
    records = [
        {"step": step, "train_loss": 3.0 - step / 20, "valid_loss": 3.0 - step / 20} for step in range(20)
    ]
    records.append({"step": 20, "train_loss": 2.0, "valid_loss": last})
    figure = learning_curve(records, 2.0, title)
    assert not faults(figure)
    assert "train, last 2.000" in said(figure) and f"valid, last {last:.3f}" in said(figure)


@pytest.mark.parametrize("title", TITLES[:3])
def test_names_are_no_formulas(title):
    """A `$` or `_` of a name is drawn as it is."""
    curve = Curve("$a_b$, x_1 ^$", [1, 2], [1, 2])
    figure = draw_panels([Panel(title, "$x$_", "$y_", [curve, curve], {"$l$": 1.0}, ticks=["$1$", "$_2$"])])
    assert not faults(figure)
    texts = said(figure).split("\n")
    for name in ("$a_b$, x_1 ^$", "$x$_", "$y_", "$l$", "$1$", "$_2$"):
        assert name in texts
    assert "".join(title.split())[:40] in said(figure).replace(" ", "")
    [axes] = figure.axes
    parsed = [
        axes.title,
        axes._left_title,
        axes.xaxis.label,
        axes.yaxis.label,
        *axes.get_legend().get_texts(),
    ]
    assert not any(text.get_parse_math() for text in (*parsed[1:], *axes.get_xticklabels()))


def test_looks_differ_without_colour():
    curves = [Curve(f"{n}", range(4), np.arange(4) + n) for n in range(20)]
    curves += [Curve(f"plain {n}", range(4), np.arange(4), style="-") for n in range(5)]
    figure = draw_panels([Panel("", "x", "y", curves)])
    looks = [(line.get_marker(), str(line._unscaled_dash_pattern)) for line in figure.axes[0].get_lines()]
    assert len(set(looks)) == len(looks)
    colours = [line.get_color() for line in figure.axes[0].get_lines()[:7]]
    assert len(set(colours)) == 7
    assert not faults(figure)


@pytest.mark.parametrize("n", [6, 60])
def test_intervals_are_those_given(n):
    """Bars at few points, a band along many."""
    x, y = np.arange(n), np.arange(n) * 2.0
    figure = draw_panels([Panel("", "x", "y", [Curve("c", x, y, y - 1, y + 3)])])
    [axes] = figure.axes
    [found] = axes.collections
    if n == 6:
        segments = np.array(found.get_segments())
        np.testing.assert_allclose(segments[:, 0], np.stack([x, y - 1], axis=1))
        np.testing.assert_allclose(segments[:, 1], np.stack([x, y + 3], axis=1))
    else:
        vertices = found.get_paths()[0].vertices
        at = vertices[vertices[:, 0] == 30, 1]
        assert (at.min(), at.max()) == (59, 63)
    np.testing.assert_array_equal(lines_of(figure)["c"], np.stack([x, y], axis=1))


@pytest.mark.parametrize("low", [0.003, 0.02, 1.0, 2.1, 7.5, 300.0])
@pytest.mark.parametrize("ratio", [1.0, 1.1, 2.0, 5.0, 30.0, 900.0])
def test_round_numbers_on_a_log_scale(low, ratio):
    places = log_places(low, low * ratio)
    assert 1 <= len(places) <= 8 and places == sorted(places)
    assert 0.97 * low <= places[0] and places[-1] <= 1.03 * low * ratio


# Texts


@pytest.mark.parametrize("title", TITLES)
def test_learning_curve(title):
    figure = learning_curve(RECORDS, 2.75, title)
    found = lines_of(figure)
    assert found["train"].tolist() == [[5, 3.0], [10, 2.0], [15, 1.5], [20, 1.25]]
    assert found["valid"].tolist() == [[10, 2.5], [20, 2.25]]
    assert found["unigram"][:, 1].tolist() == [2.75, 2.75]
    texts = said(figure)
    for text in ("train, last 1.250", "valid, last 2.250", "unigram, 2.750", "step", "nats a token"):
        assert text in texts
    assert "".join(title.split())[:40] in "".join(texts.split())
    assert not faults(figure)


def test_learning_curve_before_the_first_evaluation():
    for records, names in ((RECORDS[:1], {"train", "unigram"}), ([], {"unigram"})):
        figure = learning_curve(records, 2.75, "")
        assert set(lines_of(figure)) == names and not faults(figure)


def test_horizon_curve():
    """The mean over origins, a 95 % interval of it by Student's t, and the unigram loss to fall back to."""
    figure = horizon_curve(LOG_PROBS, 1.5, "a title")
    [axes] = figure.axes
    curve = lines_of(figure)["model"]
    for k in range(6):
        column = -LOG_PROBS[:, k]
        low, high = stats.ttest_1samp(column, 0.0).confidence_interval(0.95)
        np.testing.assert_allclose(curve[k], [k + 1, column.mean()])
        band = axes.collections[0].get_paths()[0].vertices
        at_k = band[band[:, 0] == k + 1, 1]
        np.testing.assert_allclose([at_k.min(), at_k.max()], [low, high])
    assert lines_of(figure)["unigram"][:, 1].tolist() == [1.5, 1.5]
    assert "a title" in said(figure) and "95 % interval of the mean over 40 origins" in said(figure)


@pytest.mark.parametrize(("origins", "longest"), [(1, 64), (2, 1), (40, 64), (1, 1)])
def test_horizon_curves_of_few(origins, longest):
    log_probs = -np.random.default_rng(1).exponential(size=(origins, longest))
    figure = horizon_curve(log_probs, 3.0, TITLES[1])
    assert not faults(figure)
    assert ("95 %" in said(figure)) == (origins > 1)
    np.testing.assert_allclose(lines_of(figure)["model"][:, 1], -log_probs.mean(axis=0))


@pytest.mark.parametrize("figure", [learning_curve(RECORDS, 2.0, "é"), horizon_curve(LOG_PROBS, 2.0, "é")])
def test_save_figure(tmp_path, figure):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    save_figure(figure, path)
    assert list(tmp_path.iterdir()) == [path]
    is_drawn_on(path)


def test_a_failure_leaves_the_old_figure_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    figure = learning_curve(RECORDS, 2.0, "")

    def half(target, **options):
        target.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="full"):
        save_figure(figure, path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


# Series


def forecast_of(num_points: int, start: int, **more) -> Figure:
    """Forecasts of a series that counts its own time: a perfect forecast of time t is t."""
    values = np.arange(float(num_points))[:, None]
    num_origins = num_points - start - 7
    points = start + np.arange(num_origins)[:, None, None] + np.arange(8)[None, :, None] + 0.0
    band = np.stack([values[start : start + 5] - 1, values[start : start + 5] + 1])
    one_step, free = values[start:], values[start:] + 0.5
    return plotting.forecast(values, start, one_step, free, points, band, (1, 4, 16), TITLES[1], **more)


@pytest.mark.parametrize("num_points", [40, 900])
def test_forecasts_stand_at_the_times_they_are_of(num_points):
    figure = forecast_of(num_points, 20)
    above, below = lines_of(figure, 0), lines_of(figure, 1)
    for line in (above["1 step ahead"], below["1 ahead"], below["4 ahead"]):
        np.testing.assert_array_equal(line[:, 0], line[:, 1])
    free = above["free-running from the split"]
    np.testing.assert_array_equal(free[:, 0] + 0.5, free[:, 1])
    assert "16 ahead" not in below and len(below["4 ahead"]) == min(num_points - 27, 237)
    assert "time step" in said(figure) and not faults(figure)


@pytest.mark.parametrize("step", ["Y", "M", "D", "h", "m", "s"])
def test_dates_stand_on_the_axis(step):
    times = np.datetime64("1987", step) + np.arange(40)
    figure = forecast_of(40, 20, times=times, ylabel="price_in_$")
    assert not faults(figure)
    texts = said(figure)
    assert ("price_in_$" in texts and "time step" not in texts and "1987" in texts) or step == "Y"
    line = figure.axes[1].get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), times)
    first, last = (num2date(edge).year for edge in figure.axes[1].get_xlim())
    assert first <= 1987 <= last + 1
    assert step != "Y" or {"1990", "2000", "2010", "2020"} & set(texts.split("\n"))


def test_numbers_of_time_stand_on_the_axis():
    figure = forecast_of(40, 20, times=np.arange(40) * 0.25 + 7.0)
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_xdata(), np.arange(40) * 0.25 + 7.0)
    assert not faults(figure)


def test_a_series_that_stands_still_is_drawn():
    values = np.ones((30, 1))
    points = np.ones((5, 4, 1))
    figure = plotting.forecast(values, 20, values[20:], values[20:], points, None, (1, 4), "")
    assert not faults(figure)


def some_curves(names, longest=5, scale=1.0):
    rng = np.random.default_rng(0)
    shape = (9, longest, 1)
    return {name: errors.error_curve(scale * rng.normal(size=shape), np.zeros(shape)) for name in names}


@pytest.mark.parametrize("longest", [1, 5, 64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
def test_error_curves_are_those_given(longest, scale):
    curves = some_curves(("gru", "mean", "persistence", "seasonal", "drift"), longest, scale)
    oracle = np.linspace(0.1, 0.5, longest)
    figure = plotting.error_curves(curves, "gru", oracle, "a_series: gru")
    lines = lines_of(figure)
    for name, expected in (
        *((name, curve.rmse) for name, curve in curves.items()),
        ("least possible", oracle),
    ):
        np.testing.assert_array_equal(lines[name], np.stack([np.arange(1, longest + 1), expected], axis=1))
    assert "gru, 10 % to 90 % of origins" in said(figure) and not faults(figure)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_forecast_that_runs_off_is_drawn(bad):
    curves = some_curves(("gru", "mean"))
    worse = curves["gru"].rmse.copy()
    worse[3:] = bad
    curves["gru"] = curves["gru"]._replace(rmse=worse, high=worse)
    assert not faults(plotting.error_curves(curves, "gru", None, ""))


def test_growth_is_drawn_with_the_slope_of_the_exponent():
    logs = np.minimum(-9.0 + 0.5 * np.arange(40), -1.0)
    curve = errors.ErrorCurve(*[np.exp(logs)] * 4, logs)
    figure = plotting.error_growth(curve, 0.7, "t")
    lines = lines_of(figure)
    np.testing.assert_allclose(np.diff(lines["slope 0.700"][:, 1]), 0.7)
    assert lines["slope 0.700"][[0, -1], 0].tolist() == [2, 13]
    np.testing.assert_array_equal(lines["mean of ln |error|"][:, 1], logs)
    assert not faults(figure)


def test_growth_of_no_error_is_drawn():
    zeros = np.zeros(12)
    assert not faults(plotting.error_growth(errors.ErrorCurve(*[zeros] * 4, zeros - 700.0), 0.7, "t"))


# Pictures of experiments


@pytest.mark.parametrize(
    "losses",
    [
        {"valid": [4.3, 3.4, 2.6, 2.26], "test": [4.4, 3.5, 2.8, 2.31]},
        {"valid": [900.0, 200.0, 120.0, 119.0], "test": [900.0, 200.0, 120.0, 119.0]},
        {"valid": [1.0, 1.0, 1.0, 1.0]},
    ],
)
def test_orders(losses):
    figure = draw_orders([1, 2, 3, 4], losses, [10, 2_000, 300_000, 4_000_000], "bits a character", TITLES[1])
    found = lines_of(figure)
    for split, values in losses.items():
        assert found[split].tolist() == [list(pair) for pair in zip([1, 2, 3, 4], values, strict=True)]
        assert f"{split}, {values[-1]:.4g} at order 4" in said(figure)
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(heights, [1e-5, 2e-3, 0.3, 4.0])
    assert not [fault for fault in faults(figure) if "pixels" in fault or "touches" in fault]


def flat(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.2}


def test_recall():
    lags, taus = (4, 8, 16), (4, 8)
    summary = {"chance_error": 0.75}
    for name in ("tau_4", "tau_8", "gru"):
        for lag in lags:
            summary |= flat(f"error_{name}_lag_{lag}", 0.5 if name == "gru" else lag / 32)
    figure = draw_panels([recall_picture.panel(summary, "gru", lags, taus)])
    found = lines_of(figure)
    assert found["hidden state"][:, 1].tolist() == [0.5, 0.5, 0.5]
    assert [line.get_ydata().tolist() for line in figure.axes[0].get_lines()[:1]] == [[0.125, 0.25, 0.5]]
    assert {"4", "8", "16", "guessing", "window, tau = 4"} <= set(said(figure).split("\n"))
    assert not faults(figure)


def test_disorder():
    conditions = ("as it is", "examples permuted", "time scrambled")
    summary = {"series_orderless_loss": 1.4, "text_orderless_loss": 3.4}
    for place, condition in enumerate(conditions):
        for domain in ("series", "text"):
            summary |= flat(f"{domain}_{condition.replace(' ', '_')}_loss", 1.0 + place)
    figure = draw_panels(disorder_picture.panels(summary, conditions))
    assert lines_of(figure, 1)["mean and 95 % interval over seeds"][:, 1].tolist() == [1.0, 2.0, 3.0]
    assert "time scrambled 3.000" in said(figure) and not faults(figure)


def test_objectives():
    rng = np.random.default_rng(0)
    names = ("teacher_forcing", "unrolled", "scheduled_sampling", "input_noise", "direct")
    records = [{"objective": name, "rmse": list(rng.random(32))} for name in names for _ in range(3)]
    figure = draw_panels([objectives_picture.panel(records, "a_series")])
    mean = np.mean([record["rmse"] for record in records[3:6]], axis=0)
    np.testing.assert_allclose(lines_of(figure)["unrolled"][:, 1], mean)
    assert len(figure.axes[0].collections) == 5 and not faults(figure)

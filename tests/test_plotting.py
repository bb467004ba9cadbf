"""Figures contain what they were given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lmseq import errors, plotting
from lmseq.plotting import horizon_curve, learning_curve, save_figure

RECORDS = [
    {"step": 5, "train_loss": 3.0},
    {"step": 10, "train_loss": 2.0, "valid_loss": 2.5},
    {"step": 15, "train_loss": 1.5},
    {"step": 20, "train_loss": 1.25, "valid_loss": 2.25, "sample": "text"},
]
LOG_PROBS = -np.random.default_rng(0).exponential(size=(40, 6))


def lines(figure: Figure) -> dict[str, np.ndarray]:
    """The data of each line, (points, 2), by its label."""
    [axes] = figure.axes
    return {line.get_label(): np.column_stack(line.get_data()) for line in axes.get_lines()}


def texts(figure: Figure) -> str:
    [axes] = figure.axes
    return " ".join(text.get_text() for text in axes.texts)


def test_learning_curve():
    figure = learning_curve(RECORDS, 2.75, "a title")
    found = lines(figure)
    assert found["train"].tolist() == [[5, 3.0], [10, 2.0], [15, 1.5], [20, 1.25]]
    assert found["valid"].tolist() == [[10, 2.5], [20, 2.25]]
    assert found["unigram"][:, 1].tolist() == [2.75, 2.75]
    assert "1.250" in texts(figure) and "2.250" in texts(figure)
    [axes] = figure.axes
    assert axes.get_title() == "a title"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "nats a token")
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"train", "valid", "unigram"}


def test_learning_curve_before_the_first_evaluation():
    assert set(lines(learning_curve(RECORDS[:1], 2.75, ""))) == {"train", "unigram"}
    assert set(lines(learning_curve([], 2.75, ""))) == {"unigram"}


def test_horizon_curve():
    """The mean over origins, one standard error on either side, and the unigram loss to fall back to."""
    figure = horizon_curve(LOG_PROBS, 1.5, "a title")
    [axes] = figure.axes
    [curve] = [points for name, points in lines(figure).items() if "model" in name]
    for k in range(6):
        column = [-value for value in LOG_PROBS[:, k]]
        mean = sum(column) / 40
        error = (sum((value - mean) ** 2 for value in column) / 40) ** 0.5 / 40**0.5
        np.testing.assert_allclose(curve[k], [k + 1, mean])
        band = axes.collections[0].get_paths()[0].vertices
        at_k = band[band[:, 0] == k + 1, 1]
        np.testing.assert_allclose([at_k.min(), at_k.max()], [mean - error, mean + error])
    assert lines(figure)["unigram"][:, 1].tolist() == [1.5, 1.5]
    assert axes.get_title() == "a title"


@pytest.mark.parametrize("figure", [learning_curve(RECORDS, 2.0, "é"), horizon_curve(LOG_PROBS, 2.0, "é")])
def test_save_figure(tmp_path, figure):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    save_figure(figure, path)
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    # Something other than white and grey was drawn.
    assert (pixels.max(axis=-1).astype(int) - pixels.min(axis=-1) > 60).any()


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


def lines_of(figure, axes: int = 0) -> dict:
    """Each line of a picture by its label, as (x, y)."""
    return {line.get_label(): line.get_data() for line in figure.axes[axes].get_lines()}


def test_forecasts_stand_at_the_times_they_are_of():
    values = np.arange(40.0)[:, None]
    start, num_origins = 20, 12
    # Of a series that counts its own time, a perfect forecast of time t is t.
    points = start + np.arange(num_origins)[:, None, None] + np.arange(8)[None, :, None] + 0.0
    one_step, free = values[start:], values[start:] + 0.5
    figure = plotting.forecast(values, start, one_step, free, points, None, (1, 4, 16), "t")
    above, below = lines_of(figure, 0), lines_of(figure, 1)
    for at, shown in (above["1 step ahead"], below["1 ahead"], below["4 ahead"]):
        np.testing.assert_array_equal(at, shown)
    at, shown = above["free-running from the split"]
    np.testing.assert_array_equal(at + 0.5, shown)
    assert "16 ahead" not in below and len(below["4 ahead"][0]) == num_origins


def test_error_curves_are_those_given():
    rng = np.random.default_rng(0)
    curves = {
        name: errors.error_curve(rng.normal(size=(9, 5, 1)), np.zeros((9, 5, 1))) for name in ("gru", "mean")
    }
    oracle = np.linspace(0.1, 0.5, 5)
    lines = lines_of(plotting.error_curves(curves, "gru", oracle, "t"))
    for name, expected in (
        ("gru", curves["gru"].rmse),
        ("mean", curves["mean"].rmse),
        ("least possible", oracle),
    ):
        np.testing.assert_array_equal(lines[name], (np.arange(1, 6), expected))


def test_growth_is_drawn_with_the_slope_of_the_exponent():
    logs = np.minimum(-9.0 + 0.5 * np.arange(40), -1.0)
    curve = errors.ErrorCurve(*[np.exp(logs)] * 4, logs)
    lines = lines_of(plotting.error_growth(curve, 0.7, "t"))
    k, shown = lines["slope 0.700"]
    np.testing.assert_allclose(np.diff(shown), 0.7)
    assert (k[0], k[-1]) == (2, 13)
    np.testing.assert_array_equal(lines["mean of ln |error|"][1], logs)

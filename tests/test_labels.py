"""Texts of a figure: whatever a file or a column is called, they are drawn, and soon."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lmseq import labels


@pytest.mark.parametrize(
    "text, drawn",
    [
        ("$a_{b} %s", "$a_{b} %s"),
        ("ä é\n2", "ä é\n2"),
        ("a\tb", "a b"),
        ("日\x07\udc80", 3 * labels.UNKNOWN),
        ("x" * 10**5, "x" * (labels.MOST_CHARACTERS - 1) + "…"),
    ],
)
def test_what_is_drawn_of_a_text(text, drawn):
    assert labels.drawable(text) == drawn


@given(st.text(max_size=20) | st.text("ab $", min_size=100, max_size=600))
@settings(max_examples=10, deadline=None)
def test_any_text_is_drawn_within_its_width(text):
    lines = labels.wrapped(text, 120.0, 9.0).split("\n")
    assert all(labels.text_width(line, 9.0) <= 120.0 for line in lines)
    figure = Figure(figsize=(2, 2))
    labels.label_axes(figure.add_subplot(), text, text, 120.0, 120.0)
    figure.canvas.draw()

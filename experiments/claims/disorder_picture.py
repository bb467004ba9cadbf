"""The picture of what disorder costs: a summary of iid_or_sequence in, panels out."""

from collections.abc import Sequence
from typing import Any

from lmseq.plotting import Curve, Panel


def panels(summary: dict[str, Any], conditions: Sequence[str]) -> list[Panel]:
    """Test loss of each domain under each condition, 95 % intervals over seeds, and the orderless model's."""
    found = []
    for domain in ("series", "text"):
        keys = [f"{domain}_{condition.replace(' ', '_')}_loss" for condition in conditions]
        mean, low, high = ([summary[key + end] for key in keys] for end in ("", "_low", "_high"))
        orderless = summary[f"{domain}_orderless_loss"]
        found.append(
            Panel(
                domain,
                "training data, and the mean loss",
                "test loss, nats",
                [Curve("mean and 95 % interval over seeds", range(len(keys)), mean, low, high, "o")],
                {f"orderless model, {orderless:.3f}": orderless},
                ticks=[f"{name}\n{loss:.3f}" for name, loss in zip(conditions, mean, strict=True)],
            )
        )
    return found

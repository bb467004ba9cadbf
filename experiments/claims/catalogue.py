"""All claims, in the order of the page; each module may be run by itself, so the package imports none."""

from experiments.claims import (
    chain_rule,
    context_gain,
    equal_cost,
    error_growth,
    iid_or_sequence,
    recall,
    size,
    tracking,
    truncation,
    windows_suffice,
    zipf,
)
from experiments.claims.claim import Claim
from experiments.claims.counting_walls import walls
from experiments.claims.window_or_state import recall as delayed_recall

CLAIMS: tuple[Claim, ...] = (
    iid_or_sequence.CLAIM,
    truncation.CLAIM,
    delayed_recall.CLAIM,
    recall.CLAIM,
    tracking.CLAIM,
    windows_suffice.CLAIM,
    error_growth.CLAIM,
    chain_rule.CLAIM,
    walls.CLAIM,
    context_gain.CLAIM,
    equal_cost.CLAIM,
    size.CLAIM,
    zipf.CLAIM,
)

"""`python -m experiments.claims.window_or_state`."""

from experiments.claims.window_or_state.recall import CLAIM
from experiments.frame.experiment import main

main(CLAIM)

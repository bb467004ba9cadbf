"""`python -m experiments.claims.counting_walls`."""

from experiments.claims.counting_walls.walls import CLAIM
from experiments.frame.experiment import main

main(CLAIM)

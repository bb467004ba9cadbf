"""Programs for accelerators, compiled where there is none."""

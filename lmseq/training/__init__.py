"""State, optimiser, jitted step, loop, checkpoints."""

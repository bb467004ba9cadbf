"""Configs of runs: one file a kind of run, all made of knobs."""

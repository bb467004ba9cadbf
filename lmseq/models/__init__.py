"""Flax Linen modules under the contract of `lmseq.contract`."""

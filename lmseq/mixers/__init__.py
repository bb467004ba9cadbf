"""Mixers of a sequence: cells, matrix states and attention, as pure functions; and blocks of them."""

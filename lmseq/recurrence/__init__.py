"""Recurrent layers as functions: cells, their unrolling over time, and its derivative."""

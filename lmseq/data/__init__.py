"""Corpora, tokens, and the plans by which they become training windows."""

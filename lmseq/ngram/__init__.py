"""Counting models: tables of n-grams as plain arrays."""

"""Tests of lmseq, one file a module."""

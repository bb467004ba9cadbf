"""One script an experiment: `python -m experiments.NAME --workdir=DIR`."""

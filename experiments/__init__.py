"""Experiments: a script each, and folders of what they share."""

import time

STARTED = time.monotonic()  # before anything else is imported, so that seconds count from the process's start

"""Pages that a browser opens from disk: what is on them, and the script that draws it."""

"""Side by side with the field's libraries: `python -m benchmarks.NAME`, each with requirements of its own."""

"""What writes the pages: figures, outputs and pictures of snippets, and the reference."""

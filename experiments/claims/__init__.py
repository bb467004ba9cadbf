"""The claims of the article, each an experiment."""

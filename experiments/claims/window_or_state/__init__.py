"""Windows forget, hidden states need not: recall of a symbol seen L steps ago."""

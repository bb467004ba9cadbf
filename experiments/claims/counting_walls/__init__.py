"""The walls of counting: zero probability, storage, no semantics, short range; and where nets overtake."""

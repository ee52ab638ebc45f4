"""The benchmark behind scripts/bench. Standard library only."""

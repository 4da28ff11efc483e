"""Built-in tests that a profile adds to a run."""

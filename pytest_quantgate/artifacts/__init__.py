"""Artifacts: GGUF files and measurements in a cache, keyed by what makes them."""

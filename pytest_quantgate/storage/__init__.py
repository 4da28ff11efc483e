"""Atomic writes, keys by content, and the cache."""

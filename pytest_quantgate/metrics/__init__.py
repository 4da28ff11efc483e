"""Metrics: what is observed in a cell. They know nothing of limits or baselines."""

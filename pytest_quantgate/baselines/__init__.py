"""Baselines: accepted measurements, one readable JSON a cell, reviewed like code."""

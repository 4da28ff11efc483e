"""The gate: measurement, limit and baseline in; verdict with evidence and cause out."""

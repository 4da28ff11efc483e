"""Results: measurements, verdicts, baselines and records."""

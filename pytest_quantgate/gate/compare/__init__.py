"""What changed between two measurements of one cell: pure functions over run records."""

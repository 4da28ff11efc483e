"""Every figure of each cell over accepted baselines or run records, and where its level changes."""

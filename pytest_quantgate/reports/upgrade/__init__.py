"""The report on an upgrade of the engine."""

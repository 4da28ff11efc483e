"""The measurements: a module a metric, frozen dataclasses of plain types."""

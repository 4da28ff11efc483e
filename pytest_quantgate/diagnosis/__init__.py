"""From a red cell to its origin: the operation, the conditions, the release or commit."""

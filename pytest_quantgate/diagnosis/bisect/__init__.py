"""Which release or commit moved a cell."""

"""The matrix: cells, the run that holds them, planning and sharding."""

"""How each metric is judged: pure functions, one file a metric."""

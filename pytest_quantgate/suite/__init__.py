"""The built-in suite: ordinary tests over the public fixtures and markers."""

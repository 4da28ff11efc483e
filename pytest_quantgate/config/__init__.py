"""Configuration: `[tool.quantgate]` and the options become one checked, frozen Settings."""

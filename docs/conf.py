"""Sphinx configuration."""

project = "pytest-quantgate"
author = "The pytest-quantgate developers"
copyright = "The pytest-quantgate developers"

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []

html_theme = "furo"
html_title = "pytest-quantgate"

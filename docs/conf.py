"""Sphinx configuration."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]  # the tables of the package, unbuilt

project = "pytest-quantgate"
author = "The pytest-quantgate developers"
copyright = "The pytest-quantgate developers"

extensions = ["myst_parser", "mathml", "reference_tables"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []

html_theme = "furo"
html_title = "pytest-quantgate"
html_static_path = ["_static"]
html_css_files = ["quantgate.css"]
html_math_renderer = "mathml"

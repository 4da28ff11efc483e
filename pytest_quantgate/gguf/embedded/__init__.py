"""The models that ship here, each with the distributions that its oracle gave."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

EMBEDDED = Path(str(files("pytest_quantgate.gguf.embedded")))
"""Their folder."""

"""Which folder's ``pyproject.toml`` configures a command that runs without pytest."""

from __future__ import annotations

from pathlib import Path


def project_folder(start: Path) -> Path:
    """Return the nearest folder with a ``pyproject.toml``, from ``start`` upwards; else ``start``.

    That is the plugin's choice, unless a ``pytest.ini`` or its like stands in between.
    """
    folders = (start, *start.parents)
    return next((path for path in folders if (path / "pyproject.toml").is_file()), start)

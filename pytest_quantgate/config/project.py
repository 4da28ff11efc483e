"""Which folder's ``pyproject.toml`` configures a run."""

from __future__ import annotations

from pathlib import Path


def project_folder(start: Path) -> Path:
    """Return the nearest folder with a ``pyproject.toml``, from ``start`` upwards; else ``start``.

    Without pytest; its plugin prefers pytest's root folder.
    """
    folders = (start, *start.parents)
    return next((path for path in folders if (path / "pyproject.toml").is_file()), start)

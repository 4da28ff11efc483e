"""Measurements that a script keeps as it goes, so that it may be ended and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_lines(path: Path, settings: dict[str, object]) -> list[dict[str, Any]]:
    """Return the lines of JSON that an earlier run has measured with the same settings."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["settings"] == settings]

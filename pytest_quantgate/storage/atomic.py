"""Files that are written beside and renamed, so that nobody reads half of one."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from pytest_quantgate.storage.environment import environment
from pytest_quantgate.storage.parsing import parse_json


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there; nothing half-written stays.

    Raises:
        EnvironmentProblem: it cannot be written.

    """
    with environment("cannot write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write JSON with sorted keys, atomically."""
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def read_json(path: Path) -> Any | None:
    """Read JSON; None where there is none that can be read."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None

"""Keys by content: what the same fields make has the same name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def key_of(**fields: object) -> str:
    """Return the key of what these fields determine: SHA-256 of their canonical JSON."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

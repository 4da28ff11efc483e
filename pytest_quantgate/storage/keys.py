"""Keys by content: what the same fields make has the same name."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def key_of(**fields: object) -> str:
    """Return the key of what these fields determine: SHA-256 of their canonical JSON."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_sha256(*rooms: str) -> str:
    """Hash the code in some of this package's folders: another release may measure otherwise."""
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

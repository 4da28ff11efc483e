"""Who measured, by which settings and on which texts, as names and values to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_quantgate.results.record import RunRecord

_NAMES = {
    "kind": "engine",
    "version": "version",
    "commit": "llama.cpp commit",
    "llama_cpp_version": "llama.cpp version",
    "cpu_name": "processor",
    "system_info": "instruction sets",
    "build_options": "build options",
    "platform": "platform",
    "python_version": "Python",
    "library_sha256": "libraries, SHA-256",
    "quantizer_sha256": "quantizer, SHA-256",
    "surroundings_sha256": "environment, SHA-256",
}
"""What an engine says of itself, in the order of a reader's interest."""


def identity(record: RunRecord) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return titles, each with names and values; settings have the configuration's own names."""
    facts = {
        "Engine": tuple(_engine(record.engine)),
        "Old engine": tuple(_engine(record.against or {})),
        "Settings": tuple(_settings(record.settings)),
    }
    return tuple((title, pairs) for title, pairs in facts.items() if pairs)


def _engine(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    others = (name for name in sorted(facts) if name not in _NAMES and name != "devices")
    for name in (*_NAMES, *others):
        if isinstance(facts.get(name), str | int | float):
            yield _NAMES.get(name, name.replace("_", " ")), str(facts[name]).rstrip(" |")
    if facts.get("devices"):
        yield "devices", ", ".join(map(str, facts["devices"]))


def _settings(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(facts.items()):
        if name == "texts":
            for text, digest in sorted(value.items()):
                yield f"text {text}, SHA-256", str(digest)
        elif isinstance(value, bool):
            yield name, str(value).lower()
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value))
        elif value is not None:
            yield name, str(value)

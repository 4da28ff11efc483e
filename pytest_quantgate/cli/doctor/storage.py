"""What the cache holds, against its bound and the disk, and what could be freed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pytest_quantgate.cli.doctor.findings import Finding, Section, error, warning
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.storage.cache import PARTS, Cache

NAME = "Cache"

FULL_SHARE = 0.9
"""From this share of its bound on, a cache is told to be full."""

_LEAST_FREE_BYTES = 1 << 30


def examine_storage(settings: Settings) -> Section:
    """Sum up the configured cache; nothing is made or removed."""
    cache = Cache(settings.cache_dir, settings.cache_max_bytes)
    bound = settings.cache_max_bytes
    lines, findings = [str(cache.folder)], list[Finding]()
    contents = cache.contents()
    for name, (count, n_bytes) in contents.items():
        if count:
            what = PARTS[name].what if name in PARTS else "not of this release"
            of = f" of {bound / 1e6:,.0f}" if name == "artifacts" else ""
            lines.append(f"{name:<14}{n_bytes / 1e6:>9,.1f} MB{of}: {count:,} files, {what}")
    artifacts = contents["artifacts"][1]
    if artifacts >= FULL_SHARE * bound:
        findings.append(
            warning(
                f"the cache is full: {artifacts / 1e9:,.1f} of {bound / 1e9:,.1f} GB of quantized"
                " files; those used longest ago are removed and made again when they are wanted;"
                " raise cache_max_gib or clear it",
                "quantgate cache --clear",
            )
        )
    again = sum(n_bytes for name, (_, n_bytes) in contents.items() if _is_made_again(name))
    lines.append(f"quantgate cache --clear would free {again / 1e6:,.1f} MB")
    leftovers = _leftovers(cache, lines, findings)
    free = _disk(cache.folder, bound - artifacts, lines, findings)
    facts: dict[str, Any] = {
        "folder": str(cache.folder),
        "max_bytes": bound,
        "parts": {
            name: {"files": count, "bytes": size} for name, (count, size) in contents.items()
        },
        "made_again_bytes": again,
        "leftover_bytes": leftovers,
        "free_bytes": free,
    }
    return Section(name=NAME, lines=tuple(lines), findings=tuple(findings), facts=facts)


def _is_made_again(name: str) -> bool:
    return name in PARTS and PARTS[name].is_made_again


def _leftovers(cache: Cache, lines: list[str], findings: list[Finding]) -> int:
    paths = cache.leftovers()
    n_bytes = sum(_size(path) for path in paths)
    locks = cache.locks()
    held = sum(cache.is_locked(name) for name in locks)
    if held:
        lines.append(f"locks held now, by other runs: {held}")
    if len(locks) > held:
        lines.append(f"locks that killed runs left, let go just now: {len(locks) - held}")
    killed = cache.killed_runs()
    if killed:
        last = max(killed, key=lambda path: path.stat().st_mtime)
        lines.append(f"runs that were killed: {len(killed)}; the last one's logs: {last / 'logs'}")
    if paths:
        lines.append(f"killed runs left {len(paths)} files, {n_bytes / 1e6:,.1f} MB")
        findings.append(
            warning(
                f"killed runs left {n_bytes / 1e6:,.1f} MB half-written in the cache; the next"
                " run removes them",
                "quantgate cache --prune",
            )
        )
    return n_bytes


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(file.stat().st_size for file in files)


def _disk(
    folder: Path, may_grow_bytes: int, lines: list[str], findings: list[Finding]
) -> int | None:
    """Hold the disk's free space against what the cache may still take."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        findings.append(
            error(
                f"the cache cannot be written: {there} is not yours to write; set cache_dir, or"
                " --quant-cache for a run"
            )
        )
        return None
    free = shutil.disk_usage(there).free
    lines.append(f"{free / 1e9:,.1f} GB are free on its disk")
    if free < _LEAST_FREE_BYTES:
        findings.append(
            error(f"the cache's disk has {free / 1e6:,.0f} MB left", "quantgate cache --clear")
        )
    elif free < may_grow_bytes:
        findings.append(
            warning(
                f"the cache may grow by {may_grow_bytes / 1e9:,.1f} GB and its disk has"
                f" {free / 1e9:,.1f} GB left; set a smaller cache_max_gib, or a cache_dir on"
                " another disk"
            )
        )
    return free

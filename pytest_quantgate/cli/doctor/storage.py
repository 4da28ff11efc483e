"""What the cache holds, against its bound and the disk, and what could be freed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pytest_quantgate.cli.doctor.findings import Section
from pytest_quantgate.cli.doctor.project import Project
from pytest_quantgate.storage.cache import FOLDERS, Cache

FULL_SHARE = 0.9
"""From this share of its bound on, a cache is reported as full."""

_LEAST_FREE_BYTES = 1 << 30


def examine_storage(section: Section, project: Project) -> None:
    """Sum up the configured cache; nothing is made or removed."""
    settings = project.settings
    cache, bound = Cache(settings.cache_dir, settings.cache_max_bytes), settings.cache_max_bytes
    section.say(str(cache.folder))
    contents = cache.contents()
    for name, (count, n_bytes) in contents.items():
        if count:
            what = FOLDERS[name].what if name in FOLDERS else "not of this release"
            of = f" of {bound / 1e6:,.0f}" if name == "artifacts" else ""
            section.say(f"{name:<14}{n_bytes / 1e6:>9,.1f} MB{of}: {count:,} files, {what}")
    artifacts = contents["artifacts"][1]
    again = sum(
        n for name, (_, n) in contents.items() if name in FOLDERS and FOLDERS[name].is_made_again
    )
    section.say(f"quantgate cache --clear would free {again / 1e6:,.1f} MB")
    if artifacts >= FULL_SHARE * bound:
        section.warn(
            f"the cache is full: {artifacts / 1e9:,.1f} of {bound / 1e9:,.1f} GB of quantized"
            " files; those used longest ago are removed, and made again when a run needs them;"
            " raise cache_max_gib or clear it",
            "quantgate cache --clear",
        )
    section.facts |= {
        "folder": str(cache.folder),
        "max_bytes": bound,
        "parts": {name: {"files": count, "bytes": n} for name, (count, n) in contents.items()},
        "made_again_bytes": again,
        "leftover_bytes": _leftovers(section, cache),
        "free_bytes": _disk(section, cache.folder, bound - artifacts, again),
    }


def _leftovers(section: Section, cache: Cache) -> int:
    """Report what other runs hold and what killed ones left; return the bytes of the latter.

    A lock's file stays when the lock is released, so a file that nobody holds says nothing.
    """
    held = sum(cache.is_locked(name) for name in cache.locks())
    if held:
        section.say(f"locks held now, by other runs: {held}")
    killed = cache.killed_runs()
    if killed:
        last = max(killed, key=lambda path: path.stat().st_mtime)
        section.say(f"runs that were killed: {len(killed)}; the last one's logs: {last / 'logs'}")
    paths = cache.leftovers()
    n_bytes = sum(_size(path) for path in paths)
    if paths:
        section.say(f"killed runs left {len(paths)} files, {n_bytes / 1e6:,.1f} MB")
        section.warn(
            f"killed runs left {n_bytes / 1e6:,.1f} MB half-written in the cache; the next run"
            " removes them",
            "quantgate cache --prune",
        )
    return n_bytes


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(file.stat().st_size for file in files)


def _disk(section: Section, folder: Path, may_grow_bytes: int, again_bytes: int) -> int | None:
    """Compare the disk's free space with what the cache may still take; return it."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    parts = (
        [folder / name for name in FOLDERS if (folder / name).exists()] if there == folder else []
    )
    for path in (there, *parts):
        reason = why_not_writable(path)
        if reason is not None:
            section.error(
                f"the cache cannot be written: {path} {reason}; set cache_dir, or --quant-cache for"
                " a run"
            )
            return None
    free = shutil.disk_usage(there).free
    section.say(f"{free / 1e9:,.1f} GB are free on its disk")
    if free < _LEAST_FREE_BYTES:
        what = f"the cache's disk has {free / 1e6:,.0f} MB left"
        if free + again_bytes < _LEAST_FREE_BYTES:
            what += (
                f", and the cache holds no more than {again_bytes / 1e6:,.0f} MB that could be"
                " removed; free some of it, or set cache_dir to a folder on another disk"
            )
            section.error(what)
        else:
            section.error(what, "quantgate cache --clear")
    elif free < may_grow_bytes:
        section.warn(
            f"the cache may grow by {may_grow_bytes / 1e9:,.1f} GB and its disk has"
            f" {free / 1e9:,.1f} GB left; set a smaller cache_max_gib, or a cache_dir on"
            " another disk"
        )
    return free


def why_not_writable(folder: Path) -> str | None:
    """Return why no file can be made in a folder, None where one can."""
    if not folder.is_dir():
        return "is no folder"
    if hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY:  # not on Windows
        return "is on a disk that is mounted read-only"
    return None if os.access(folder, os.W_OK | os.X_OK) else "is not yours to write"

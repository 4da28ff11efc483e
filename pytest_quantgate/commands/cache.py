"""``quantgate cache``: show what the cache holds, or clear it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifacts.cache import Cache

if TYPE_CHECKING:
    from pytest_quantgate.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("cache", help="show what the cache holds")
    parser.add_argument("--dir", type=Path, help="the cache's folder, if not the usual one")
    parser.add_argument("--clear", action="store_true", help="remove artifacts and references")


def run(arguments: argparse.Namespace) -> int:
    """Clear the cache if that was asked, and print its contents."""
    cache = Cache(arguments.dir, max_bytes=0)
    if arguments.clear:
        cache.clear()
    print(f"{cache.folder}:")
    for name, (count, n_bytes) in cache.contents().items():
        print(f"  {name:<14}{count:>7,} files  {n_bytes / 1e6:>10,.1f} MB")
    return 0

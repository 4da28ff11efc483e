"""``quantgate cache``: show what the cache holds, and remove what need not stay."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.config.project import project_folder
from pytest_quantgate.config.schema import Tables
from pytest_quantgate.config.tables import read_tables
from pytest_quantgate.storage.cache import FOLDERS, Cache

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("cache", help="show what the cache holds")
    parser.add_argument("--dir", type=Path, help="the cache's folder, if not the configured one")
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove what is too old, above the bound, or was left by a killed run",
    )
    parser.add_argument(
        "--clear",
        action="store_true",
        help="remove all that is made again when it is missed: quantized files, references, …",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prune or clear the cache if that was asked, and print its contents."""
    root = project_folder(Path.cwd())
    tables = Tables() if arguments.dir is not None else read_tables(root)
    folder = arguments.dir or tables.cache_folder(root)
    cache = Cache(folder, tables.cache_max_bytes)
    if arguments.prune:
        cache.prune()
        cache.evict(keep=set())
    if arguments.clear:
        cache.clear()
    print(f"{cache.folder}:")
    contents = cache.contents()
    for name, (count, n_bytes) in contents.items():
        what = FOLDERS[name].what if name in FOLDERS else "not of this release"
        more = f", at most {tables.cache_max_gib:g} GiB (cache_max_gib)"
        description = f"{what}{more if name == 'artifacts' else ''}"
        print(f"  {name:<14}{count:>7,} files  {n_bytes / 1e6:>10,.1f} MB  {description}")
    count = sum(count for count, _ in contents.values())
    n_bytes = sum(n_bytes for _, n_bytes in contents.values())
    print(f"  {'in all':<14}{count:>7,} files  {n_bytes / 1e6:>10,.1f} MB")
    return 0

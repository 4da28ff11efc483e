"""``quantgate diff``: what changed in the baselines since a revision, for a reviewer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.config.project import project_folder
from pytest_quantgate.config.tables import read_tables
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.baseline_diff import BaselineChange, diff_blocks
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.text import text
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.storage.git import git, git_if_any

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "diff", help="show what changed in the baselines since a revision of git"
    )
    parser.add_argument("revision", nargs="?", default="HEAD", metavar="REV", help="default: HEAD")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Print the changes from the revision to the working tree."""
    changes = find_changes(baselines_folder(), arguments.revision)
    blocks = diff_blocks(changes, arguments.revision)
    print(markdown(blocks) if arguments.markdown else text(blocks), end="")
    return 0


def baselines_folder() -> Path:
    """Return the folder of the baselines of the project that is worked in."""
    root = project_folder(Path.cwd())
    return root / read_tables(root).baselines_dir


def find_changes(folder: Path, revision: str) -> list[BaselineChange]:
    """Return the baselines below a folder that are not what they were at a revision.

    Raises:
        ConfigError: no repository of git, no such revision, or a baseline that cannot be read.

    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder of baselines {str(folder)!r} (baselines_dir)")
    asked = f"{revision}^{{commit}}"
    commit = git(folder, "rev-parse", "--verify", "--end-of-options", asked).decode().strip()
    options = ("--name-only", "--no-renames", "--relative", "-z")
    tracked = git(folder, "diff", *options, commit, "--", ".")
    others = git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    changes = []
    for name in sorted({*(tracked + others).decode(errors="replace").split("\0")} - {""}):
        if not name.endswith(".json") or name.startswith("published/"):
            continue
        path = folder / name
        before = git_if_any(folder, "show", f"{commit}:./{name}").decode(errors="replace")
        after = path.read_text(encoding="utf-8") if path.is_file() else ""
        changes.append(
            BaselineChange(
                path=name,
                old=parse(before, f"{name} of {revision}") if before else None,
                new=parse(after, name) if after else None,
            )
        )
    return changes

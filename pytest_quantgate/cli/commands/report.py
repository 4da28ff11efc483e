"""``quantgate report``: show a run record, or write it as Markdown or HTML."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.cli.commands.diff import baselines_folder, find_changes
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.baseline_diff import diff_blocks
from pytest_quantgate.reports.blocks import Block
from pytest_quantgate.reports.github import (
    MAX_SUMMARY_BYTES,
    annotation_lines,
    comment,
    summary,
)
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.write import (
    check_ending,
    run_markdown,
    terminal_blocks,
    write_report,
)
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "report", help="show a run record, or write it as Markdown or HTML"
    )
    parser.add_argument("record", type=Path, help="a .json of --quant-report")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--markdown", action="store_true", help="print Markdown")
    way.add_argument("-o", "--output", type=Path, help="write to this .md, .html or .json instead")
    way.add_argument(
        "--github",
        action="store_true",
        help="in a step of GitHub Actions: append to its summary, and print annotations",
    )
    way.add_argument(
        "--comment",
        action="store_true",
        help="print Markdown for a pull request's comment: the verdict, and folded the tables",
    )
    parser.add_argument(
        "--since",
        metavar="REV",
        help="with --comment: add what changed in the baselines since this revision of git",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print or write the record."""
    if arguments.since and not arguments.comment:
        raise ConfigError("--since says what changed for a comment; give --comment too")
    record = read_record(arguments.record)
    if arguments.output is not None:
        check_ending("--output", arguments.output)
        write_report(arguments.output, record)
    elif arguments.comment:
        changes = _baseline_changes(arguments.since) if arguments.since else []
        print(comment(record, changes), end="")
    elif arguments.markdown:
        print(run_markdown(record), end="")
    elif arguments.github:
        _tell_github(record)
    else:
        print(text(terminal_blocks(record)), end="")
    return 0


def _baseline_changes(revision: str) -> list[Block]:
    changes = find_changes(baselines_folder(), revision)
    return diff_blocks(changes, "the base") if changes else []


def _tell_github(record: RunRecord) -> None:
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        raise ConfigError(
            "--github writes to the file that GITHUB_STEP_SUMMARY names, which is not set;"
            " outside of GitHub Actions use --markdown"
        )
    path = Path(name)
    try:
        used_bytes = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(summary(record, MAX_SUMMARY_BYTES - used_bytes))
    except OSError as error:
        raise ConfigError(f"GITHUB_STEP_SUMMARY names {name}: {error}") from error
    for line in annotation_lines(record):
        print(line)

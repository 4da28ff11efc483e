"""``quantgate compare``: what changed from one run record to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.compare.comparison import compare_records
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.upgrade.report import brief_blocks, upgrade_blocks
from pytest_quantgate.results.record import read_record
from pytest_quantgate.storage.atomic import write_atomically

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "compare",
        help="say what changed from one run record to another",
        epilog="exit status: 0 where no common cell is worse than its limits, 1 where one is or"
        " cannot be decided, 2 where the records cannot be used",
    )
    parser.add_argument("old", type=Path, help="a .json of --quant-report to compare with")
    parser.add_argument("new", type=Path, help="the .json that is judged")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("-o", "--output", type=Path, help="write Markdown to this .md instead")


def run(arguments: argparse.Namespace) -> int:
    """Compare two records, and print or write what changed."""
    output: Path | None = arguments.output
    if output is not None and output.suffix != ".md":
        raise ConfigError(f"--output {str(output)!r}: the valid ending is .md")
    comparison = compare_records(read_record(arguments.old), read_record(arguments.new))
    if output is not None:
        write_atomically(output, markdown(upgrade_blocks(comparison)).encode())
    elif arguments.markdown:
        print(markdown(upgrade_blocks(comparison)), end="")
    else:
        print(text(brief_blocks(comparison)), end="")
    return 1 if comparison.red else 0

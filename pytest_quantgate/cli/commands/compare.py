"""``quantgate compare``: two run records, or two formats or importance matrices of one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.compare.comparison import compare_records
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.pairs import find_pairs, pair_blocks
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.upgrade.report import brief_blocks, upgrade_blocks
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.storage.atomic import write_atomically

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "compare",
        help="say what changed from one run record to another, or how two formats of one differ",
        epilog="exit status: 0 where no common cell is worse than its limits, 1 where one is or"
        " cannot be decided, 2 where the records cannot be used",
    )
    parser.add_argument("old", type=Path, help="a .json of --quant-report to compare with")
    parser.add_argument("new", type=Path, nargs="?", help="the .json that is judged")
    parser.add_argument(
        "--pair",
        nargs=2,
        metavar=("A", "B"),
        help="instead, hold format B of one record against its format A, or so the importance"
        " matrices (none is a name): paired differences with intervals",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("-o", "--output", type=Path, help="write Markdown to this .md instead")


def run(arguments: argparse.Namespace) -> int:
    """Compare two records, or two formats of one, and print or write the differences."""
    output: Path | None = arguments.output
    if output is not None and output.suffix != ".md":
        raise ConfigError(f"--output {str(output)!r}: the valid ending is .md")
    if (arguments.pair is None) == (arguments.new is None):
        raise ConfigError("name two records, or one record and --pair A B")
    old = read_record(arguments.old)
    if arguments.pair is not None:
        blocks = brief = pair_blocks(find_pairs(old, *arguments.pair))
        status = 0
    else:
        comparison = compare_records(old, read_record(arguments.new))
        blocks, brief = upgrade_blocks(comparison), brief_blocks(comparison)
        status = 1 if comparison.red else 0
    if output is not None:
        write_atomically(output, markdown(blocks).encode())
    elif arguments.markdown:
        print(markdown(blocks), end="")
    else:
        print(text(brief), end="")
    return status

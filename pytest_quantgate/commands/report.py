"""``quantgate report``: show a run record, or write it as Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.report.record import read_record
from pytest_quantgate.report.sections import make_sections, section_lines
from pytest_quantgate.report.table import make_tables, markdown, text_lines
from pytest_quantgate.report.write import check_ending, write_report

if TYPE_CHECKING:
    from pytest_quantgate.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("report", help="show a run record, or write it as Markdown")
    parser.add_argument("record", type=Path, help="a .json of --quant-report")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("-o", "--output", type=Path, help="write to this .md or .json instead")


def run(arguments: argparse.Namespace) -> int:
    """Print or write the record."""
    record = read_record(arguments.record)
    if arguments.output is not None:
        check_ending("--output", arguments.output)
        write_report(arguments.output, record)
    elif arguments.markdown:
        print(markdown(record), end="")
    else:
        for table in make_tables(record):
            print("\n".join(text_lines(table)))
        for section in make_sections(record):
            print("\n".join(section_lines(section)))
    return 0

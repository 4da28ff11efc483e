"""``quantgate claims``: set published figures beside what was measured here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.reports.claims.evidence import Evidence, read_help_texts
from pytest_quantgate.reports.claims.judging import judge_claims
from pytest_quantgate.reports.claims.render import claims_list, claims_table
from pytest_quantgate.reports.claims.schema import read_claims
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.text import text
from pytest_quantgate.results.record_file import read_record

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "claims", help="set published figures beside what was measured here"
    )
    parser.add_argument("file", help="a .json of claims, or the name of one that ships")
    parser.add_argument(
        "--record",
        type=Path,
        action="append",
        default=[],
        help="a .json of --quant-report to take figures from; may be repeated",
    )
    parser.add_argument(
        "--programs", type=Path, help="a folder of llama.cpp's programs, to ask for their options"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Judge the claims and print the findings."""
    claims = read_claims(arguments.file)
    records = [read_record(path) for path in arguments.record]
    help_texts = read_help_texts(arguments.programs) if arguments.programs is not None else {}
    findings = judge_claims(claims, Evidence(records=records, help_texts=help_texts))
    if arguments.markdown:
        print(markdown(claims_table(claims.title, findings)), end="")
    else:
        print(text(claims_list(claims.title, findings)), end="")
    return 0

"""``quantgate recommend``: say which format of a run record to take."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.recommend import Preference, Wishes, recommend_blocks
from pytest_quantgate.reports.text import text
from pytest_quantgate.results.record_file import read_record

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30}


def parse_bytes(written: str) -> float:
    """Return a size such as ``5G`` or ``4.5GiB`` in bytes.

    Raises:
        argparse.ArgumentTypeError: it is no size.

    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", written.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{written!r} is no size; write for example 5G or 4.5GiB")
    return float(match[1]) * _UNITS[match[2] or ""]


def parse_share(written: str) -> float:
    """Return a share such as ``0.9`` or ``90%``.

    Raises:
        argparse.ArgumentTypeError: it is no share from 0 to 1.

    """
    try:
        value = float(written.rstrip("% ")) / (100 if written.rstrip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{written!r} is no share; write for example 0.9 or 90%")
    return value


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "recommend", help="say which format of a run record to take, and why not the others"
    )
    parser.add_argument("record", type=Path, help="a .json of --quant-report")
    parser.add_argument("--max-bytes", type=parse_bytes, metavar="SIZE", help="such as 5G")
    parser.add_argument("--min-same-top", type=parse_share, metavar="SHARE", help="such as 0.9")
    parser.add_argument("--max-kld", type=float, metavar="NATS", help="such as 0.05")
    parser.add_argument(
        "--prefer",
        choices=get_args(Preference),
        default="quality",
        help="what counts among the formats that keep the limits (default: quality)",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Print the choice for each model of the record."""
    wishes = Wishes(
        max_bytes=arguments.max_bytes,
        min_same_top=arguments.min_same_top,
        max_kld_nats=arguments.max_kld,
        prefer=arguments.prefer,
    )
    blocks = recommend_blocks(read_record(arguments.record), wishes)
    print(markdown(blocks) if arguments.markdown else text(blocks), end="")
    return 0

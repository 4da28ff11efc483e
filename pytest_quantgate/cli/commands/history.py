"""``quantgate history``: how every figure of each cell went, and where its level changed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.cli.commands.diff import baselines_folder
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.history.exports import Export, export
from pytest_quantgate.reports.history.report import history_blocks
from pytest_quantgate.reports.history.series import History
from pytest_quantgate.reports.history.sources import (
    history_of_baselines,
    history_of_records,
    read_records,
)
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.text import text
from pytest_quantgate.storage.atomic import write_atomically

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers

_ENDINGS = (".html", ".md", ".json")


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "history",
        help="show every figure of each cell over accepted baselines or run records, and what"
        " changed",
    )
    parser.add_argument(
        "records",
        type=Path,
        nargs="*",
        help="run records, or folders of them; without any, the project's baselines as its commits"
        " accepted them",
    )
    parser.add_argument(
        "--cell", metavar="PATTERN", help="only cells whose id is like this, such as '*Q4_K_M*'"
    )
    parser.add_argument(
        "--export",
        choices=[kind.value for kind in Export],
        help="print the newest version's figures as JSON for Bencher, or for"
        " github-action-benchmark: figures of which less or more is better",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument(
        "-o", "--output", type=Path, help="write to this .html or .md, or an export to this .json"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print or write the history."""
    output: Path | None = arguments.output
    endings = _ENDINGS[2:] if arguments.export else _ENDINGS[:2]
    if output is not None and output.suffix not in endings:
        valid = ", ".join(endings)
        raise ConfigError(f"--output {str(output)!r}: the valid endings are here: {valid}")
    history = _filtered(_read(arguments.records), arguments.cell)
    if arguments.export:
        written = export(history, Export(arguments.export))
    elif output is not None and output.suffix == ".html":
        # Late: only this kind needs jinja2.
        from pytest_quantgate.reports.html.history_page import history_html  # noqa: PLC0415

        written = history_html(history)
    elif output is not None or arguments.markdown:
        written = markdown(history_blocks(history))
    else:
        written = text(history_blocks(history))
    if output is None:
        print(written, end="")
    else:
        write_atomically(output, written.encode())
    return 0


def _read(paths: list[Path]) -> History:
    if paths:
        return history_of_records(*read_records(paths))
    return history_of_baselines(baselines_folder())


def _filtered(history: History, pattern: str | None) -> History:
    if pattern is None:
        return history
    kept = tuple(item for item in history.series if fnmatchcase(item.cell, pattern))
    if not kept:
        cells = ", ".join(dict.fromkeys(item.cell for item in history.series))
        raise ConfigError(f"--cell {pattern!r} fits no cell; there are: {cells}")
    return replace(history, series=kept)

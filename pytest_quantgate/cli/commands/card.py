"""``quantgate card``: write a model card of a run record."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.card import (
    advice_blocks,
    card_csv,
    card_groups,
    front_matter,
    origin_blocks,
)
from pytest_quantgate.reports.html.page import plot_svg
from pytest_quantgate.reports.html.views import group_plots
from pytest_quantgate.reports.markdown import escape, markdown
from pytest_quantgate.reports.run_tables import Group
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.storage.atomic import write_atomically

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "card", help="write a model card of a run record: which formats to ship, and why"
    )
    parser.add_argument("record", type=Path, help="a .json of --quant-report")
    parser.add_argument("--model", metavar="NAME", help="the model, where the record has several")
    parser.add_argument(
        "--max-kld",
        type=float,
        metavar="NATS",
        help="the divergence up to which a format ships (default: kld_mean_max, where it was set)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="write to this .md, with its plots as .svg beside it, or to this .csv",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print or write the card."""
    output: Path | None = arguments.output
    if output is not None and output.suffix not in {".md", ".csv"}:
        raise ConfigError(f"--output {str(output)!r}: valid endings: .md, .csv")
    record = read_record(arguments.record)
    groups = card_groups(record, arguments.model)
    if output is not None and output.suffix == ".csv":
        write_atomically(output, card_csv(groups, arguments.max_kld).encode())
        return 0
    plots = "" if output is None else _write_plots(output, groups)
    advice = markdown(advice_blocks(groups, arguments.max_kld))
    origin = markdown(origin_blocks(record, groups))
    card = "\n".join(filter(None, (front_matter(groups) + advice, plots, origin)))
    if output is None:
        print(card, end="")
    else:
        write_atomically(output, card.encode())
    return 0


def _write_plots(card: Path, groups: Sequence[Group]) -> str:
    """Write the plots beside a card, and return the Markdown that shows them."""
    plots = [plot for group in groups for plot in group_plots(group) if plot is not None]
    lines = []
    for number, plot in enumerate(plots, start=1):
        path = card.with_name(f"{card.stem}-{number}.svg")
        write_atomically(path, plot_svg(plot).encode())
        lines.append(f"![{escape(plot.title)}](<{path.name}>)\n")
    return "\n".join(lines)

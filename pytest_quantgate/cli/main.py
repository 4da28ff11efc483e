"""The ``quantgate`` command: what can be done without a test run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_quantgate import __version__
from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Command


def _commands() -> Mapping[str, Command]:
    # Imported late, so that what is not installed is told in one line.
    from pytest_quantgate.cli.commands import COMMANDS  # noqa: PLC0415

    return COMMANDS


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; ``command`` becomes the chosen one's name."""
    parser = argparse.ArgumentParser(prog="quantgate", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in _commands().values():
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        parser = make_parser()
    except ImportError as error:
        print(
            f"quantgate: this installation is incomplete ({error}); type:"
            f" {sys.executable} -m pip install pytest-quantgate",
            file=sys.stderr,
        )
        return 2
    parsed = parser.parse_args(arguments)
    try:
        return _commands()[parsed.command].run(parsed)
    except ConfigError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        return 2

"""The ``quantgate`` command: what can be done without a test run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_quantgate import __version__
from pytest_quantgate.commands import COMMANDS
from pytest_quantgate.errors import ConfigError


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; ``command`` becomes the chosen one's name."""
    parser = argparse.ArgumentParser(prog="quantgate", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS.values():
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parsed = make_parser().parse_args(arguments)
    try:
        return COMMANDS[parsed.command].run(parsed)
    except ConfigError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        return 2

"""What a command of ``quantgate`` offers to the parser of them all."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    # Generic for type checkers alone.
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


class Command(Protocol):
    """What a command's module offers."""

    def add_parser(self, subparsers: Subparsers) -> None:
        """Declare the command, under its name in :data:`COMMANDS`, and its arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do what was asked and return the exit status.

        Raises:
            ConfigError: what cannot be used, in one line.

        """

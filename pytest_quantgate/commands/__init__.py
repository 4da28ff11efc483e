"""The commands of ``quantgate``: one module a command, one line in :data:`COMMANDS`.

A command's module has the two functions of :class:`Command`. What a user has to mend is raised
as a :class:`~pytest_quantgate.errors.ConfigError`, which the caller prints in one line.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pytest_quantgate.commands import cache, claims, compare, devices, doctor, merge, report

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


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "cache": cache,
        "claims": claims,
        "compare": compare,
        "devices": devices,
        "doctor": doctor,
        "merge": merge,
        "report": report,
    }
)
"""The commands by their names."""

"""The commands of ``quantgate``: one module a command, one line in :data:`COMMANDS`.

A command's module has the two functions of :class:`~pytest_quantgate.cli.command.Command`. What a
user has to fix is raised as a :class:`~pytest_quantgate.errors.ConfigError`, which the caller
prints in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_quantgate.cli.command import Command
from pytest_quantgate.cli.commands import (
    bisect,
    cache,
    card,
    claims,
    compare,
    devices,
    diff,
    doctor,
    history,
    locate,
    merge,
    recommend,
    report,
)

COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "bisect": bisect,
        "cache": cache,
        "card": card,
        "claims": claims,
        "compare": compare,
        "devices": devices,
        "diff": diff,
        "doctor": doctor,
        "history": history,
        "locate": locate,
        "merge": merge,
        "recommend": recommend,
        "report": report,
    }
)
"""The commands by their names."""

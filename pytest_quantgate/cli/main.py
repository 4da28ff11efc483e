"""The ``quantgate`` command: what can be done without a test run."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from pytest_quantgate import __version__
from pytest_quantgate.errors import ConfigError, EnvironmentProblem
from pytest_quantgate.reports.words import logged

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Command


_BROKEN_PIPE = 128 + 13
"""The exit status of a program that SIGPIPE ended."""

_PLAIN_SIGNS = "quantgate.plain-signs"
_SIGNS = {"Δ": "d", "−": "-", "–": "-", "→": ">", "×": "x", "…": "~", "†": "+", "≤": "<", "≥": ">"}
_SIGNS |= dict(zip("▁▂▃▄▅▆▇█", "_.,-~=*#", strict=True))
"""What stands for the signs of reports in an encoding that lacks them, one character each."""


def _commands() -> Mapping[str, Command]:
    # Imported late, so that what is not installed is reported in one line.
    from pytest_quantgate.cli.commands import COMMANDS  # noqa: PLC0415

    return COMMANDS


def make_printable(stream: TextIO | None) -> None:
    """Let a stream of an old encoding take every character, each as one of its own."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_PLAIN_SIGNS)


def _plain_sign(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(_SIGNS.get(sign, "?") for sign in signs), error.end


codecs.register_error(_PLAIN_SIGNS, _plain_sign)


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
    make_printable(sys.stdout)
    make_printable(sys.stderr)
    try:
        try:
            parsed = parser.parse_args(arguments)
            return _commands()[parsed.command].run(parsed)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has left, as head does: no more is written, not even at the interpreter's end.
        _drop_output()
        return _BROKEN_PIPE
    except (ConfigError, EnvironmentProblem, OSError) as error:
        print(logged(f"quantgate: {error}"), file=sys.stderr)
        if isinstance(error, OSError) and sys.stdout is not None:
            _drop_output()
        return 2


def _drop_output() -> None:
    """Keep the interpreter from writing at its end what could not be written before."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

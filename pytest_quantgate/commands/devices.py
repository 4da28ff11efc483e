"""``quantgate devices``: list the devices that an engine finds here."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.worker.messages import ListDevices

if TYPE_CHECKING:
    from pytest_quantgate.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("devices", help="list the devices that an engine finds here")
    parser.add_argument("--python", help="the engine's interpreter, if not this one")


def run(arguments: argparse.Namespace) -> int:
    """Ask the engine and print its devices."""
    with tempfile.TemporaryDirectory() as folder:
        engine = LlamaCppPython(
            python=arguments.python, log=Path(folder) / "worker.log", stall_s=60
        )
        try:
            identity, found = engine.identity(), engine.ask(ListDevices())
        except CellError as error:
            raise ConfigError(f"the engine lists no devices: {error}") from error
        finally:
            engine.close()
    print(
        f"{identity.kind} {identity.version}, llama.cpp {identity.llama_cpp_version}".rstrip(", ")
    )
    print(f"  {'cpu':<10}the processor alone; every other device is hidden")
    for name, description, free, total in found.rows:
        memory = f", {free / 1e9:,.1f} of {total / 1e9:,.1f} GB free" if total else ""
        print(f"  {name:<10}{description}{memory}")
    return 0

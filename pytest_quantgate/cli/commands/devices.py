"""``quantgate devices``: list the devices that an engine finds here."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.config.project import project_folder
from pytest_quantgate.config.schema import EngineSettings
from pytest_quantgate.config.settings import engine_settings
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.engines.inventory import device_lines, list_devices
from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.storage.keys import file_sha256

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers

_STALL_S = 60.0


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("devices", help="list the devices that an engine finds here")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--engine", metavar="NAME", help="an engine of the configuration, if not its profile's"
    )
    which.add_argument("--python", help="the interpreter of an engine without configuration")


def run(arguments: argparse.Namespace) -> int:
    """Ask the engine and print its devices."""
    root = project_folder(Path.cwd())
    if arguments.python is not None:
        wanted = EngineSettings(python=arguments.python)
    else:
        wanted = engine_settings(root, arguments.engine)
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(
            wanted,
            root=root,
            log=Path(folder) / "engine.log",
            stall_s=_STALL_S,
            sha256_of=file_sha256,
        )
        try:
            identity, devices = engine.identity(), list_devices(engine)
        except CellError as error:
            raise ConfigError(f"the engine lists no devices: {error}") from error
        finally:
            engine.close()
    print(
        f"{identity.kind} {identity.version}, llama.cpp {identity.llama_cpp_version}".rstrip(", ")
    )
    for line in device_lines(devices):
        print(f"  {line}")
    return 0

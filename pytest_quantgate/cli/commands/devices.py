"""``quantgate devices``: list the devices of an engine, and those of every host."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.config.machines import EngineSettings, HostSettings
from pytest_quantgate.config.project import project_folder
from pytest_quantgate.config.settings import engine_settings
from pytest_quantgate.config.tables import read_tables
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.engines.inventory import device_lines, list_devices
from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.hosts.inventory import ask_host
from pytest_quantgate.storage.keys import file_sha256

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers

_STALL_S = 60.0


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "devices", help="list the devices of an engine, and of every host"
    )
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
    if arguments.python is None and arguments.engine is None:
        answered = [_print_host(*item) for item in read_tables(root).hosts.items()]
        return int(not all(answered))
    return 0


def _print_host(label: str, host: HostSettings) -> bool:
    """Print a host's devices, or why it cannot be used; return whether it can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            answer = ask_host(label, host, Path(folder), _STALL_S)
        except CellError as error:
            print(str(error).partition("\n")[0])
            return False
    identity = answer.identity
    print(f"host {label}: {identity.kind} {identity.version}, {answer.n_cpus} processors")
    for line in device_lines(answer.devices):
        print(f"  {line}")
    return True

"""``quantgate locate``: the first operation in which two computations differ."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.config.project import project_folder
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.diagnosis.locate import WINDOW, locate
from pytest_quantgate.diagnosis.sides import Side, with_conditions
from pytest_quantgate.engines.devices import default_threads
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.engines.messages.placement import read_placement
from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.reports.location import location_blocks
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.text import text
from pytest_quantgate.storage.keys import file_sha256

if TYPE_CHECKING:
    from pytest_quantgate.cli.command import Subparsers
    from pytest_quantgate.engines.engine import Engine
    from pytest_quantgate.matrix.cells import Cell


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "locate",
        help="find the first operation in which two computations differ by more than rounding",
        epilog="exit status: 0 where nothing is further away than rounding explains, 1 where"
        " something is, 2 where it cannot be found out",
    )
    parser.add_argument("first", help="a cell of the active profile, or a .gguf: taken as right")
    parser.add_argument(
        "second",
        nargs="?",
        help="what is compared with it; without, the first file under the conditions of --b, or a"
        " cell against its reference",
    )
    for name, which in (("a", "first"), ("b", "second")):
        parser.add_argument(
            f"--{name}",
            metavar="KEY=VALUE,…",
            default="",
            help=f"conditions of the {which}: device, n_threads, n_ubatch, flash_attention, type_k,"
            " type_v, repack, python",
        )
    parser.add_argument("--text", type=Path, help="a text instead of the built-in one")
    parser.add_argument("--chunk", type=int, default=0, help="which chunk of it (default: 0)")
    parser.add_argument("--n-ctx", type=int, default=512, help="its length (default: 512)")
    parser.add_argument(
        "--tokens",
        type=int,
        default=WINDOW,
        help=f"how many of its tokens are decoded; the last {WINDOW} are compared"
        f" (default: {WINDOW})",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Print where the two first differ; return 1 where they do."""
    if not 2 <= arguments.tokens <= arguments.n_ctx:
        raise ConfigError(f"--tokens {arguments.tokens} must be 2 to --n-ctx {arguments.n_ctx}")
    session = Session(load_settings(project_folder(Path.cwd())), f"locate-{os.getpid()}")
    with tempfile.TemporaryDirectory() as logs:
        engines = _Engines(session, Path(logs))
        try:
            first, second = _sides(session, arguments)
            names = (name for side in (first, second) for name in read_placement(side.device).names)
            with hold_device(",".join(dict.fromkeys(names))):
                location = locate(
                    first,
                    second,
                    text=_text(session, arguments.text),
                    chunk=arguments.chunk,
                    n_ctx=arguments.n_ctx,
                    n_tokens=arguments.tokens,
                    engine_of=engines.get,
                )
        except CellError as error:
            raise ConfigError(str(error)) from error
        finally:
            engines.close()
            session.close()
    blocks = location_blocks(location)
    print(markdown(blocks) if arguments.markdown else text(blocks), end="")
    return int(bool(location.further) or location.origin.value == "fused")


def _text(session: Session, path: Path | None) -> Path:
    if path is not None:
        return path
    built_in = session.library.text("evaluation")
    return session.cache.text(built_in.data, built_in.sha256)


def _sides(session: Session, arguments: argparse.Namespace) -> tuple[Side, Side]:
    """Return both sides; what is not named follows from what is."""
    first = _side(session, arguments.first)
    if arguments.second is not None:
        second = _side(session, arguments.second)
    elif arguments.a or arguments.b:
        second = first
    else:
        second, first = first, _of_cell(session, _reference(session, arguments.first))
    return (
        with_conditions(first, arguments.a, "--a"),
        with_conditions(second, arguments.b, "--b"),
    )


def _side(session: Session, name: str) -> Side:
    """Return a file, or the file and conditions of a cell.

    Raises:
        ConfigError: it is neither.

    """
    if name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"there is no file {name}; check the path")
        engine = session.settings.engines[session.settings.profile.engine]
        return Side(name=path.name, path=path.resolve(), engine=engine, n_threads=default_threads())
    return _of_cell(session, session.matrix.named(name))


def _of_cell(session: Session, cell: Cell) -> Side:
    resolved = session.resolve(cell)
    profile = resolved.profile
    return Side(
        name=cell.id,
        path=session.artifacts.file(resolved).path,
        engine=session.settings.engines[cell.engine],
        device=session.device(resolved),
        n_threads=resolved.conditions.n_threads,
        n_ubatch=resolved.conditions.n_ubatch,
        flash_attention=profile.flash_attention,
        type_k=profile.type_k,
        type_v=profile.type_v,
    )


def _reference(session: Session, name: str) -> Cell:
    """Return the cell that a cell is compared with.

    Raises:
        ConfigError: it has none.

    """
    if not name.endswith(".gguf"):
        cell = session.matrix.named(name)
        if session.matrix.reference(cell) != cell:
            return session.matrix.reference(cell)
    raise ConfigError(
        f"{name} has no reference to be compared with: name a second file or cell, or the"
        " conditions of the second, as --b n_ubatch=1"
    )


class _Engines:
    """The engines of both sides: one where both are of one interpreter."""

    def __init__(self, session: Session, logs: Path) -> None:
        self._session = session
        self._logs = logs
        self._engines: dict[str, Engine] = {}

    def get(self, side: Side) -> Engine:
        """Return a side's engine."""
        key = side.engine.model_dump_json()
        if key not in self._engines:
            self._engines[key] = make_engine(
                side.engine,
                root=self._session.settings.root,
                log=self._logs / f"{len(self._engines)}.log",
                stall_s=self._session.settings.stall_s,
                sha256_of=file_sha256,
            )
        return self._engines[key]

    def close(self) -> None:
        """End their processes."""
        for engine in self._engines.values():
            engine.close()

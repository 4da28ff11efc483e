"""The plugin's state of one pytest process, in ``config.stash``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_quantgate.config.project import project_folder as nearest_project
from pytest_quantgate.plugin.options import Options, read_options

if TYPE_CHECKING:
    from pytest_quantgate.config.settings import Settings
    from pytest_quantgate.engines.engine import Engine
    from pytest_quantgate.gate.question import Answer, Question
    from pytest_quantgate.matrix.cells import Cell
    from pytest_quantgate.matrix.session import Session
    from pytest_quantgate.plugin.progress import Progress


class MeasuresElsewhere(Protocol):
    """What measures cells in other threads than the tests': the run's lanes."""

    def wait(self, item: pytest.Item) -> None:
        """Wait until a test's cell was measured, or could not be."""

    def answer(self, item: pytest.Item, cell: Cell, questions: Sequence[Question]) -> Answer:
        """Return what was found of a test's cell."""

    def call(self, cell: Cell, work: Callable[[Session], Any]) -> Any:
        """Call a function with a session that measures a cell."""

    def stop(self) -> None:
        """Cancel what has not begun, and end what has."""


@dataclass(kw_only=True)
class State:
    """What hooks of one process share.

    ``run`` is there once something was asked for; ``saw_cells`` says that a test, perhaps in
    another process of pytest-xdist, judged a cell; ``lost_report`` that one was not written.
    ``unwritten`` has the records of cells that could not be written, as JSON, by the test's id.
    """

    config: pytest.Config
    options: Options
    run_id: str
    saw_cells: bool = False
    lost_report: bool = False
    unwritten: dict[str, str] = field(default_factory=dict)
    session: Session | None = None
    progress: Progress | None = None
    lanes: MeasuresElsewhere | None = None

    @property
    def is_xdist_worker(self) -> bool:
        """Whether this process is one of pytest-xdist's workers."""
        return hasattr(self.config, "workerinput")

    def open_session(self) -> Session:
        """Return this process's run, made from the configuration when first asked for.

        Raises:
            ConfigError: a setting that cannot be used.

        """
        if self.session is None:
            from pytest_quantgate.config.settings import load_settings
            from pytest_quantgate.matrix.session import Session

            settings = load_settings(project_folder(self.config), self.options.overrides)
            self.session = Session(settings, self.run_id, self.make_engine)
        return self.session

    def make_engine(self, name: str, settings: Settings, log: Path) -> Engine | None:
        """Ask the project's hooks for an engine; None is the usual one."""
        engine: Engine | None = self.config.hook.pytest_quantgate_make_engine(
            name=name, settings=settings, log=log
        )
        return engine

    def measure(self, cell: Cell, work: Callable[[Session], Any]) -> Any:
        """Call a function with the session that measures a cell: the run's own, or its lane's."""
        if self.lanes is None:
            return work(self.open_session())
        return self.lanes.call(cell, work)

    def close(self) -> None:
        """End the run's worker processes."""
        if self.lanes is not None:
            self.lanes.stop()
        if self.session is not None:
            self.session.close()

    def note_end(self) -> None:
        """Let the cache know that the run, if there was one, came to its end."""
        if self.session is not None:
            self.session.cache.note_end(self.run_id)


def make_state(config: pytest.Config) -> State:
    """Make the state; a worker of pytest-xdist takes the run's name from its controller."""
    given = getattr(config, "workerinput", {}).get("quant_run_id")
    return State(config=config, options=read_options(config), run_id=given or uuid.uuid4().hex)


def project_folder(config: pytest.Config) -> Path:
    """Return the folder whose ``pyproject.toml`` configures the run.

    pytest takes an option's value that is a path for an argument, and may so find a root folder
    above the project; the folder where it was started comes first if it has a configuration.
    """
    start = config.invocation_params.dir
    for folder in (start, config.rootpath):
        if (folder / "pyproject.toml").is_file():
            return folder
    return nearest_project(start)


STATE = pytest.StashKey[State]()

UNWRITTEN = "quant_record"
"""The property of a test's report that carries its cell's record where none could be written."""

"""Adds the built-in suites to a run, and checks everything before anything is measured."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.errors import CellError, ConfigError, EnvironmentProblem
from pytest_quantgate.matrix.cells import NO_TEXT
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.plugin.options import suite_node_id
from pytest_quantgate.plugin.state import STATE, State
from pytest_quantgate.plugin.suites import CALIBRATION_NODE, CODECS_NODE, MATRIX_NODE

_MODULES = {
    MATRIX_NODE: "pytest_quantgate.plugin.suites.test_matrix",
    CALIBRATION_NODE: "pytest_quantgate.plugin.suites.test_noise",
    CODECS_NODE: "pytest_quantgate.plugin.suites.test_codecs",
}

OPTIONAL_TESTS = {
    "test_batch_geometry": "batch_geometry",
    "test_sweep": "sweep",
    "test_devices": "compare_devices",
    "test_speed": "speed",
    "test_memory": "memory",
}
"""Tests of the built-in matrix that the profile must switch on, and its key for each."""


def prepare(state: State) -> None:
    """Check the settings, and run only the suites where no path was given.

    Raises:
        pytest.UsageError: anything that cannot be used, in one line; in the controller only,
            since in a worker of pytest-xdist it would be an internal error.

    """
    config = state.config
    if state.options.any_suite and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []
    if state.is_xdist_worker:
        return
    try:
        session = state.open_session()
        _check_reports(session.settings.reports)
        session.cache.prune()
        if state.options.shows_cells:
            _check_matrix(state, session)
    except (ConfigError, EnvironmentProblem) as error:
        state.close()
        raise pytest.UsageError(str(error)) from error
    if _measures_elsewhere(state):
        state.close()


def _measures_elsewhere(state: State) -> bool:
    """Return whether pytest-xdist's workers measure, and not this process."""
    return bool(state.config.getoption("numprocesses", None))


def _check_reports(paths: Iterable[Path]) -> None:
    """Refuse a report that could not be written, before anything is measured."""
    for path in paths:
        folder = next(folder for folder in path.parents if folder.exists())
        if path.is_dir() or not folder.is_dir():
            problem = "it is a folder" if path.is_dir() else f"{folder} is no folder"
        elif not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            problem = f"{folder} cannot be written to"
        else:
            continue
        raise ConfigError(
            f"--quant-report {str(path)!r}: {problem}; give the path of a file in a folder that"
            " you may write to"
        )


def header_line(state: State) -> str:
    """Return which configuration a run uses."""
    settings = state.open_session().settings
    name, path = settings.profile_name, settings.root / "pyproject.toml"
    if not settings.uses_built_in_profile:
        return f"quantgate: profile {name!r} of {path}"
    lacks = "has no profile of that name" if path.is_file() else "does not exist"
    explores = ", with other cells: those without a shipped baseline are measured, not gated"
    return (
        f"quantgate: the built-in profile {name!r} ({path} {lacks})"
        f"{explores if settings.explores else ''}"
    )


def _check_matrix(state: State, session: Session) -> None:
    for cell in session.matrix.cells:
        if cell.text == NO_TEXT:
            continue
        try:
            session.artifacts.chunk_plan(session.resolve(cell))
        except CellError:
            continue  # the engine's trouble is the cell's verdict, not a usage error
    if state.options.update_baselines and state.options.calibrate:
        raise ConfigError(
            "--quant-calibrate stores no baselines; store them with"
            ' pytest --quant-matrix --snapshot-update --quant-reason "WHY"'
        )
    against = session.settings.profile.against
    if against is not None and (state.options.update_baselines or state.options.calibrate):
        raise ConfigError(
            f"--quant-against {against!r} compares two engines in one run: it stores no baselines"
            " and calibrates nothing; leave out --snapshot-update and --quant-calibrate"
        )
    if state.options.update_baselines and not state.options.reason:
        from pytest_quantgate.gate.accepting import NEEDS_REASON

        raise ConfigError(NEEDS_REASON)
    if state.options.update_baselines and not state.config.pluginmanager.hasplugin("syrupy"):
        raise ConfigError("--snapshot-update needs syrupy; remove -p no:syrupy")


class SuiteModule(pytest.Module):
    """A built-in test module under a node id of its own.

    From site-packages its id would be empty or begin with the environment's folder.
    """

    def _getobj(self) -> Any:
        return importlib.import_module(_MODULES[self.nodeid])

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Return the module's tests, those of an option only where the profile has it.

        A calibration asks for all of its own.
        """
        profile = self.config.stash[STATE].open_session().settings.profile
        for node in super().collect():
            switch = OPTIONAL_TESTS.get(node.name.partition("[")[0])
            is_calibration = self.nodeid == CALIBRATION_NODE
            if switch is None or is_calibration or getattr(profile, switch):
                yield node


class Suite(pytest.Directory):
    """The root folder as the place of one built-in suite.

    pytest knows tests by their files: conftest modules hold for the folders below their own,
    ``--nf`` sorts by a file's time, editors show a tree of files, and ``--lf`` passes over files
    without failures. So the suite's module has the path of the configuration file that it is made
    from, in the root folder, whose conftest is loaded because this is a ``Directory``; and the
    module's tests are collected here, since ``--lf`` looks for a file named like the node id.
    """

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Return the suite's tests, of arguments that name some only these.

        Raises:
            CollectError: an argument that no test has the name of.

        """
        inipath = self.config.inipath
        is_here = inipath is not None and inipath.parent == self.path
        module = SuiteModule.from_parent(
            self, path=inipath if is_here else self.path, name=self.nodeid, nodeid=self.nodeid
        )
        nodes = list(module.collect())
        selected = self.config.stash[STATE].options.selected.get(self.nodeid, ("",))
        for name in selected:
            if name and not any(_has_name(node, name) for node in nodes):
                names = sorted({node.name.partition("[")[0] for node in nodes})
                raise self.CollectError(
                    f"not found: {self.nodeid}::{name}; the suite has {', '.join(names)}; list"
                    f" all with pytest --collect-only -q {self.nodeid}"
                )
        return [n for n in nodes if any(not name or _has_name(n, name) for name in selected)]


def _has_name(node: pytest.Item | pytest.Collector, name: str) -> bool:
    return name in (node.name, node.name.partition("[")[0])


def remove_arguments(config: pytest.Config) -> None:
    """Take the suites' node ids out of the arguments, which pytest would look for on disk."""
    config.args = [item for item in config.args if suite_node_id(item, config) is None]


def collect(session: pytest.Session, state: State) -> Iterator[pytest.Item]:
    """Return the tests of the suites that were asked for."""
    options = state.options
    profile = state.open_session().settings.profile
    adds_codecs = options.matrix and profile.codecs and MATRIX_NODE not in options.selected
    for node, is_asked_for in (
        (MATRIX_NODE, options.matrix),
        (CALIBRATION_NODE, options.calibrate),
        (CODECS_NODE, options.codecs or adds_codecs),
    ):
        if is_asked_for:
            root = session.config.rootpath
            yield from session.genitems(
                Suite.from_parent(session, path=root, name=node, nodeid=node)
            )


def deselect_other_shards(config: pytest.Config, state: State, items: list[pytest.Item]) -> None:
    """Leave out the tests of cells that other shards have, and the codecs but in the first shard.

    A test that asks for some fields of a cell runs where the first cell with these is. Tests
    without a cell are not the matrix's, and stay.
    """
    gate = state.open_session()
    assert gate.settings.shard is not None
    ids = {cell.id for cell in gate.matrix.cells}
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        point = item.callspec.params.get("_quant_point") if hasattr(item, "callspec") else None
        is_codec = item.nodeid.startswith(CODECS_NODE)
        is_here = (
            gate.settings.shard.number == 1 if is_codec else (point is None or point.cell.id in ids)
        )
        (kept if is_here else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept

"""Adds the built-in suite to a run, and checks everything before anything is measured."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.plugin.gating import NEEDS_REASON
from pytest_quantgate.plugin.state import State

SUITE_MODULE = "pytest_quantgate.suite.test_matrix"
SUITE_NODE = "quant-matrix"


def prepare(state: State) -> None:
    """Check the settings and run only the matrix where no path was given.

    Raises:
        pytest.UsageError: anything that cannot be used, in one line; in the controller only,
            since in a worker of pytest-xdist it would be an internal error.

    """
    config = state.config
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []
    if state.is_xdist_worker:
        return
    try:
        run = state.open_run()
        for cell in run.cells:
            try:
                run.chunk_plan(cell.model, cell.text)
            except CellError:
                continue  # the engine's trouble is the cell's verdict, not a usage error
        if state.options.update_baselines and not state.options.reason:
            raise ConfigError(NEEDS_REASON)
        if state.options.update_baselines and not config.pluginmanager.hasplugin("syrupy"):
            raise ConfigError("--snapshot-update needs syrupy; remove -p no:syrupy")
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from error
    finally:
        state.close()


class SuiteModule(pytest.Module):
    """The built-in test module under a node id of its own.

    From site-packages its id would be empty or begin with the environment's folder.
    """

    def _getobj(self) -> Any:
        return importlib.import_module(SUITE_MODULE)


def collect(session: pytest.Session, state: State) -> Iterator[pytest.Item]:
    """Give the suite's tests."""
    module = SuiteModule.from_parent(
        session, path=state.config.rootpath / SUITE_NODE, nodeid=SUITE_NODE
    )
    profile = state.open_run().settings.profile
    for item in session.genitems(module):
        if profile.batch_geometry or not item.name.startswith("test_batch_geometry"):
            yield item

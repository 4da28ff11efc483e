"""The plugin's state of one pytest process, in ``config.stash``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.plugin.options import Options

if TYPE_CHECKING:
    from pytest_quantgate.plugin.terminal import Progress
    from pytest_quantgate.run import Run


@dataclass(kw_only=True)
class State:
    """What hooks of one process share; ``run`` is there once something was asked for."""

    config: pytest.Config
    options: Options
    run: Run | None = None
    progress: Progress | None = None

    @property
    def is_xdist_worker(self) -> bool:
        return hasattr(self.config, "workerinput")

    def open_run(self) -> Run:
        """Return this process's run, made from the configuration when first asked for.

        Raises:
            ConfigError: a setting that cannot be used.

        """
        if self.run is None:
            from pytest_quantgate.config import load_settings
            from pytest_quantgate.run import Run

            settings = load_settings(self.config.rootpath, self.options.overrides())
            run_id = self.config.getoption("quant_run_id") or uuid.uuid4().hex
            # pytest-xdist gives its workers the controller's options.
            self.config.option.quant_run_id = run_id
            hook = self.config.hook.pytest_quantgate_make_engine
            self.run = Run(
                settings,
                run_id,
                lambda name, settings, log: hook(name=name, settings=settings, log=log),
            )
        return self.run

    def close(self) -> None:
        """End the run's worker processes."""
        if self.run is not None:
            self.run.close()


STATE = pytest.StashKey[State]()

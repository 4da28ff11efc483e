"""The engines of a run, each made when it is first asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.factory import make_engine

MakeEngine = Callable[[str, Settings, Path], Engine | None]
"""Given an engine's name, the settings and a log file: an engine, or None for the usual one."""


class EnginePool:
    """Engines by their names in the configuration.

    Args:
        settings: checked settings.
        logs: the folder of the engines' logs.
        sha256_of: hashes a file.
        make: makes an engine of a name; None or a result of None is the usual one.
        suffix: what the logs' names end with, where one process has several pools.
        identities: the folder in which engines' identities are kept; None keeps none.

    """

    def __init__(
        self,
        settings: Settings,
        logs: Path,
        sha256_of: Callable[[Path], str],
        make: MakeEngine | None = None,
        suffix: str = "",
        identities: Path | None = None,
    ) -> None:
        self._settings = settings
        self._logs = logs
        self._sha256_of = sha256_of
        self._make = make
        self._identities = identities
        self._suffix = suffix
        self._engines: dict[str, Engine] = {}

    def __getitem__(self, name: str) -> Engine:
        if name not in self._engines:
            log = self._logs / f"{name}-{os.getpid()}{self._suffix}.log"
            made = self._make(name, self._settings, log) if self._make else None
            self._engines[name] = made or make_engine(
                self._settings.engines[name],
                root=self._settings.root,
                log=log,
                stall_s=self._settings.stall_s,
                sha256_of=self._sha256_of,
                identities=self._identities,
            )
        return self._engines[name]

    def close(self) -> None:
        """End all processes."""
        for engine in self._engines.values():
            engine.close()

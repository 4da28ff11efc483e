"""A project with a tiny model, whose runs are forked from a process that has all modules loaded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest  # noqa: TID251 # it runs pytest

# Loaded once, before a run is forked.
import pytest_quantgate.metrics.measured_cell
import pytest_quantgate.plugin.gating
import pytest_quantgate.plugin.terminal  # noqa: F401 # loaded for the runs

REPORT = "report.json"
UPDATE = ("--snapshot-update", "--quant-reason=undisturbed")

_POLL_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended: its exit status, None where it was killed at its deadline; what it printed.

    ``peak_bytes`` is that of the largest of its processes.
    """

    status: int | None
    output: str
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class ForkedProject:
    """A folder with a configuration, a cache, and the record of its last run.

    ``environment`` holds for its runs alone.
    """

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Its cache."""
        return self.root / "cache"

    @property
    def _log(self) -> Path:
        return self.root.with_name(f"{self.root.name}.log")  # the folder's disk may be full

    @property
    def baselines(self) -> list[Path]:
        """The stored baselines."""
        return sorted((self.root / "baselines").rglob("*.json"))

    def configure(self, models: Mapping[str, str], profile: str, top: str = "") -> None:
        """Write the configuration; the arguments are TOML."""
        tables = "".join(
            f"[tool.quantgate.models.{name}]\n{lines}\n" for name, lines in models.items()
        )
        (self.root / "pyproject.toml").write_text(
            f"[tool.quantgate]\n{top}\n{tables}"
            "[tool.quantgate.texts.story]\nsource = 'story.txt'\n"
            f"[tool.quantgate.profiles.default]\nmodels = {list(models)}\ntexts = ['story']\n"
            f"n_ctx = 64\nn_threads = 1\n{profile}\n"
        )

    def start(self, *arguments: str) -> int:
        """Fork a run with a process group of its own, and return its process."""
        process = os.fork()
        if process:
            return process
        status = 3
        try:
            os.setsid()
            os.chdir(self.root)
            os.environ.update(self.environment)
            with self._log.open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            status = pytest.main(
                ["-p", "no:cacheprovider", "--quant-matrix", "--quant-cache=cache", *arguments]
            )
        finally:
            os._exit(status)

    def wait(self, process: int, deadline_s: float) -> Ended:
        """Wait for a run; one that goes on beyond its deadline is killed with its workers."""
        end_s = time.monotonic() + deadline_s
        is_late = False
        while True:
            ended, code, usage = os.wait4(process, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > end_s and not is_late:
                is_late = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
            time.sleep(_POLL_S)
        return Ended(
            status=None if is_late else os.waitstatus_to_exitcode(code),
            output=self._log.read_text(errors="replace"),
            peak_bytes=1024 * usage.ru_maxrss,
        )

    def run(self, *arguments: str, deadline_s: float = 600.0) -> Ended:
        """Run to the end."""
        return self.wait(self.start(f"--quant-report={REPORT}", *arguments), deadline_s)

    def record(self) -> dict[str, Any]:
        """Read the last run's record."""
        record: dict[str, Any] = json.loads((self.root / REPORT).read_text())
        return record

"""Worker processes as the test run sees them: start, ask, watch, end.

A worker may abort, hang or speak nonsense; each becomes one exception with the exit status and
the last log lines, and the next request starts a fresh process.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import execnet

from pytest_quantgate.engines.messages import (
    DivergenceSummary,
    Failed,
    Message,
    Progress,
    ScoredChunk,
    SummedChunk,
    from_wire,
)
from pytest_quantgate.errors import CellCrashed, CellTimeout, CellUnavailable, CellUnsupported

ENTRY = "pytest_quantgate.engines.worker.serve:serve"

SENT_MODULES = (
    "pytest_quantgate",
    "pytest_quantgate.engines",
    "pytest_quantgate.engines.worker",
    "pytest_quantgate.engines.messages",
    "pytest_quantgate.engines.messages.base",
    "pytest_quantgate.engines.messages.codecs",
    "pytest_quantgate.engines.messages.comparisons",
    "pytest_quantgate.engines.messages.costs",
    "pytest_quantgate.engines.messages.engine",
    "pytest_quantgate.engines.messages.files",
    "pytest_quantgate.engines.messages.scores",
    "pytest_quantgate.engines.messages.placement",
    "pytest_quantgate.engines.worker.host",
    "pytest_quantgate.engines.worker.errors",
    "pytest_quantgate.engines.worker.loading",
    "pytest_quantgate.engines.worker.releases",
    "pytest_quantgate.engines.worker.llama",
    "pytest_quantgate.engines.worker.graph",
    "pytest_quantgate.engines.worker.rows",
    "pytest_quantgate.engines.worker.reference",
    "pytest_quantgate.engines.worker.routing",
    "pytest_quantgate.engines.worker.scoring",
    "pytest_quantgate.engines.worker.imatrix",
    "pytest_quantgate.engines.worker.batches",
    "pytest_quantgate.engines.worker.oracle",
    "pytest_quantgate.engines.worker.quantizing",
    "pytest_quantgate.engines.worker.sampling",
    "pytest_quantgate.engines.worker.speed",
    "pytest_quantgate.engines.worker.memory",
    "pytest_quantgate.engines.worker.coding",
    "pytest_quantgate.engines.worker.experts",
    "pytest_quantgate.engines.worker.build",
    "pytest_quantgate.engines.worker.identity",
    "pytest_quantgate.engines.worker.serve",
    "pytest_quantgate.engines.worker.native",
    "pytest_quantgate.engines.worker.native_kernels",
)
"""What a worker imports of this package; a test holds their imports to what any engine has."""

QUIET_THREADS = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""Variables under which a worker's threads sleep while they wait for each other.

By default they spin, which keeps a core from other work, and from the thread that they wait
for. Figures stay the same to the last bit, times do not: speed is measured without these.
"""

_ON_THE_WAY = (Progress, ScoredChunk, SummedChunk, DivergenceSummary)
_LOG_TAIL_LINES = 8


def module_source(name: str) -> tuple[bool, str]:
    """Return whether a module of this package is a package, and its text."""
    parts = name.split(".")
    folder = files(parts[0])
    for part in parts[1:-1]:
        folder = folder / part
    if len(parts) == 1:
        return True, (folder / "__init__.py").read_text(encoding="utf-8")
    package = folder / parts[-1] / "__init__.py"
    if package.is_file():
        return True, package.read_text(encoding="utf-8")
    return False, (folder / f"{parts[-1]}.py").read_text(encoding="utf-8")


def log_tail(path: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """Return the last lines of a log that say something, for a message."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 16384))
            text = stream.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    kept = [line.rstrip() for line in text.splitlines() if line.strip(" .")]
    return "\n".join(kept[-lines:]) or "(empty log)"


def describe_exit(code: int | None) -> str:
    """Say how a process ended: its signal or exit status."""
    if code is None:
        return "still running"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"
    return f"exit status {code}"


class _WrongArguments(Exception):
    """Carries a ``VALUE`` failure past the handlers of a channel's own errors."""


class Worker:
    """One worker process, started at the first request and again after it died.

    Args:
        python: the engine's interpreter; None is this one.
        log: the file that takes the child's output.
        entry: ``module:function`` that serves the channel.
        extra_sources: modules besides ``SENT_MODULES``, as name → (is a package, text).
        stall_s: seconds without any sign of life after which the child is ended.
        environment: variables for the child, where they are not set already.

    """

    def __init__(
        self,
        *,
        python: str | None,
        log: Path,
        stall_s: float,
        entry: str = ENTRY,
        extra_sources: Iterable[tuple[str, tuple[bool, str]]] = (),
        environment: Mapping[str, str] = QUIET_THREADS,
    ) -> None:
        self._python = python
        self._log = log
        self._stall_s = stall_s
        self._entry = entry
        self._extra = tuple(extra_sources)
        self._environment = dict(environment)
        self._group: Any = None
        self._channel: Any = None
        self._popen: subprocess.Popen[bytes] | None = None

    def request(
        self, message: Message, on_reply: Callable[[Message], None] | None = None
    ) -> Message:
        """Ask, hand every reply on the way to ``on_reply``, and return the last.

        Raises:
            CellCrashed: the process died, or spoke nonsense.
            CellTimeout: no sign of life for ``stall_s`` seconds.
            CellUnsupported: the engine refused.
            CellUnavailable: the interpreter cannot be started, or the engine not be loaded.
            ValueError: the worker says that the request's arguments are wrong.

        """
        try:
            return self._ask(message, on_reply)
        except _WrongArguments as error:
            raise ValueError(str(error)) from None

    def _ask(self, message: Message, on_reply: Callable[[Message], None] | None) -> Message:
        channel = self._open()
        try:
            channel.send(message.to_wire())
            while True:
                reply = from_wire(channel.receive(timeout=self._stall_s))
                if isinstance(reply, Failed):
                    raise self._failure(reply)
                if not isinstance(reply, _ON_THE_WAY):
                    return reply
                if on_reply is not None:
                    on_reply(reply)
        except channel.TimeoutError:
            self._end()
            raise CellTimeout(
                f"no sign of life for {self._stall_s:g} s; the worker was ended."
                f" Last log lines:\n{log_tail(self._log)}"
            ) from None
        except (EOFError, OSError):
            raise self._death() from None
        except (ValueError, channel.RemoteError) as error:
            self._end()
            raise CellCrashed(
                f"the worker sent what is no message ({str(error).strip().splitlines()[-1]})."
                f" Last log lines:\n{log_tail(self._log)}"
            ) from None

    def close(self) -> None:
        """End the process, if one runs."""
        self._end()

    def _failure(self, reply: Failed) -> Exception:
        if reply.kind == "VALUE":
            return _WrongArguments(reply.reason)
        if reply.kind == "UNSUPPORTED":
            return CellUnsupported(reply.reason)
        if reply.kind == "UNAVAILABLE":
            self._end()  # it could not be loaded, and the next one may be
            return CellUnavailable(reply.reason)
        return CellCrashed(f"{reply.reason}. Last log lines:\n{log_tail(self._log)}")

    def _death(self) -> CellCrashed:
        code: int | None = None
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._popen.wait(timeout=10)
        self._end()
        return CellCrashed(
            f"the worker died: {describe_exit(code)}. Last log lines:\n{log_tail(self._log)}"
        )

    def _open(self) -> Any:
        if self._channel is not None:
            return self._channel
        spec = "popen"
        if self._python is not None and self._python != sys.executable:
            spec += f"//python={shlex.quote(self._python)}"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._group = execnet.Group()
        try:
            gateway = self._group.makegateway(spec)
        except (OSError, EOFError) as error:
            self._end()
            raise CellUnavailable(
                f"the interpreter {self._python!r} cannot be started: {error}"
            ) from error
        # execnet keeps the process to itself, but its exit status is the evidence.
        self._popen = getattr(gateway._io, "popen", None)
        child = (files("pytest_quantgate.engines.worker") / "child.py").read_text(encoding="utf-8")
        self._channel = gateway.remote_exec(child)
        sources = [(name, module_source(name)) for name in SENT_MODULES]
        self._channel.send(
            (
                str(self._log),
                os.getpid(),
                [*sources, *self._extra],
                self._entry,
                self._environment,
            )
        )
        return self._channel

    def _end(self) -> None:
        group, self._group, self._channel, self._popen = self._group, None, None, None
        if group is not None:
            group.terminate(timeout=2)

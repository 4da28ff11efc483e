"""Worker processes as the test run sees them: start, ask, watch, end.

A worker may abort, hang or speak nonsense; each becomes one exception with the exit status and
the last log lines, and the next request starts a fresh process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import execnet
from execnet.gateway_base import ThreadExecModel

from pytest_quantgate.engines.isolation import isolated_environment, last_folders
from pytest_quantgate.engines.messages import Failed, Interim, Message, from_wire
from pytest_quantgate.errors import (
    CellCrashed,
    CellTimeout,
    CellUnavailable,
    CellUnsupported,
    EnvironmentProblem,
)

ENTRY = "pytest_quantgate.engines.worker.serve:serve"

QUIET_THREADS = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""Variables under which a worker's threads sleep while they wait for each other.

By default they spin, which keeps a core from other work, and from the thread that they wait
for. Figures stay the same to the last bit, times do not: speed is measured without these.
"""

_LOG_TAIL_LINES = 8
_TELLING = re.compile(r"GGML_A|assert|abort|error|fail|fatal|cannot|out of memory", re.IGNORECASE)


def worker_sources() -> dict[str, tuple[bool, str]]:
    """Return what a worker imports of this package: name → (is a package, text).

    These are all modules of ``engines.worker`` and ``engines.messages``, and the packages above.
    """
    root = files(__package__.partition(".")[0])
    sources = {
        name: (True, folder.joinpath("__init__.py").read_text(encoding="utf-8"))
        for name, folder in ((root.name, root), (__package__, root / "engines"))
    }
    for room in ("worker", "messages"):
        for path in (root / "engines" / room).iterdir():
            stem, dot, ending = path.name.partition(".")
            if (dot, ending) == (".", "py"):
                name = f"{__package__}.{room}"
                is_package = stem == "__init__"
                text = path.read_text(encoding="utf-8")
                sources[name if is_package else f"{name}.{stem}"] = is_package, text
    return sources


def log_tail(path: Path, lines: int = _LOG_TAIL_LINES, begin: int = 0) -> list[str]:
    """Return the last lines of a log from a byte on that say something."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(begin, stream.seek(0, os.SEEK_END) - 16384))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip(" .")][-lines:]


def with_log(what: str, path: Path, begin: int = 0) -> str:
    """Add the end of a log to what went wrong; the first line says the most telling of it."""
    tail = log_tail(path, begin=begin)
    if not tail:
        return f"{what}; nothing was logged"
    telling = [line for line in tail if _TELLING.search(line)] or tail
    return "\n".join([f"{what}; logged: {telling[-1].strip()}", "Last log lines:", *tail])


def describe_exit(code: int | None) -> str:
    """Return how a process ended: its signal or exit status."""
    if code is None:
        return "still running"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"
    return f"exit status {code}"


Start = Callable[[list[str], int, int], "subprocess.Popen[bytes]"]
"""Starts a command with these streams for its input and output."""

PARENT_THERE = -1
"""Stands for the parent of a worker on another machine: whatever started it there."""


class Place(Protocol):
    """Another machine, in which workers run."""

    def start(self, arguments: list[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        """Start a command there."""

    def begin(self, gateway: Any) -> str:
        """Take note of a worker's process that has started; return the path of its log there."""

    def fetch_log(self, log: Path) -> None:
        """Append what the worker has logged there since to a log that is here."""


class Launcher:
    """Stands in for the module ``subprocess``, of which execnet uses ``PIPE`` and ``Popen``.

    An interpreter starts in an environment of ours, or where ``start`` says, and its process
    stays in reach: the exit status is the evidence of how it ended.
    """

    PIPE = subprocess.PIPE

    def __init__(self, start: Start | None = None) -> None:
        self._start = start or _start_here
        self.process: subprocess.Popen[bytes] | None = None

    def Popen(self, arguments: list[str], *, stdin: int, stdout: int) -> Any:  # noqa: N802
        """Start an interpreter."""
        self.process = self._start(arguments, stdin, stdout)
        return self.process


def _start_here(arguments: list[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, stdin=stdin, stdout=stdout, env=isolated_environment())


class LaunchedThreads(ThreadExecModel):
    """execnet's threads, with a launcher of ours."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    @property
    def subprocess(self) -> Any:
        """What starts processes."""
        return self._launcher


class Worker:
    """One worker process, started at the first request and again after it died.

    Args:
        python: the engine's interpreter; None is this one.
        log: the file that takes the child's output.
        entry: ``module:function`` that serves the channel.
        extra_sources: modules besides those of this package, as name → (is a package, text).
        stall_s: seconds without any sign of life after which the child is ended.
        environment: variables for the child, where they are not set already.
        place: the machine that it runs in, None for this one.

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
        place: Place | None = None,
    ) -> None:
        self._python = python or sys.executable
        self._log = log
        self._stall_s = stall_s
        self._entry = entry
        self._extra = dict(extra_sources)
        self._environment = dict(environment)
        self._place = place
        self._launcher = Launcher(None if place is None else place.start)
        self._group: Any = None
        self._channel: Any = None
        self._number = 0
        self._log_begin = 0
        self._is_answering = False

    def request(
        self, message: Message, on_reply: Callable[[Message], None] | None = None
    ) -> Message:
        """Ask, hand every reply on the way to ``on_reply``, and return the last.

        A request that is left before its last reply, for whatever reason, ends the process: what
        it still sends belongs to no other request.

        Raises:
            CellCrashed: the process died, or spoke nonsense.
            CellTimeout: no sign of life for ``stall_s`` seconds.
            CellUnsupported: the engine refused.
            CellUnavailable: the interpreter cannot be started, or the engine not be loaded.
            ValueError: the worker says that the request's arguments are wrong.

        """
        if self._is_answering:  # left so early that it could not be ended then
            self._end()
        self._is_answering = True
        try:
            reply = self._ask(message, on_reply)
        except BaseException:
            self._end()
            raise
        self._is_answering = False
        if isinstance(reply, Failed):
            raise self._failure(reply)
        return reply

    def _ask(self, message: Message, on_reply: Callable[[Message], None] | None) -> Message:
        self._log_begin = self._log.stat().st_size if self._log.exists() else 0
        self._open()
        self._number += 1
        try:
            self._channel.send((self._number, message.to_wire()))
        except OSError:
            raise self._death() from None
        while True:
            reply = self._receive()
            if not isinstance(reply, Interim):
                return reply
            if on_reply is not None:
                on_reply(reply)

    def _receive(self) -> Message:
        channel = self._channel
        try:
            number, item = channel.receive(timeout=self._stall_s)
            if number != self._number:
                raise ValueError(f"it answers request {number}, not {self._number}")
            return from_wire(item)
        except channel.TimeoutError:
            silence = f"no sign of life for {self._stall_s:g} s; the worker was ended"
            raise CellTimeout(self._with_log(silence)) from None
        except (EOFError, OSError):
            raise self._death() from None
        except (TypeError, ValueError, channel.RemoteError) as error:
            nonsense = str(error).strip().splitlines()[-1]
            what = f"the worker sent what is no message ({nonsense})"
            raise CellCrashed(self._with_log(what)) from None

    def close(self) -> None:
        """End the process, if one runs."""
        self._end()

    def _failure(self, reply: Failed) -> Exception:
        if reply.kind == "VALUE":
            return ValueError(reply.reason)
        if reply.kind == "UNSUPPORTED":
            return CellUnsupported(reply.reason)
        if reply.kind == "ENVIRONMENT":
            return EnvironmentProblem(f"the engine's process met {reply.reason}")
        if reply.kind == "UNAVAILABLE":
            self._end()  # it could not be loaded, and the next one may be
            return CellUnavailable(reply.reason, command=reply.command)
        return CellCrashed(self._with_log(reply.reason))

    def _death(self) -> CellCrashed:
        code: int | None = None
        if self._launcher.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._launcher.process.wait(timeout=10)
        what = f"the worker died: {describe_exit(code)}"
        return CellCrashed(self._with_log(what), exit_code=code)

    def _with_log(self, what: str) -> str:
        if self._place is not None:
            self._place.fetch_log(self._log)
        return with_log(what, self._log, self._log_begin)

    def _open(self) -> None:
        if self._channel is not None:
            return
        place = self._place
        self._log.parent.mkdir(parents=True, exist_ok=True)
        # execnet takes a model itself as well as its name.
        self._group = execnet.Group(execmodel=LaunchedThreads(self._launcher))  # type: ignore[arg-type]
        first_lines = files("pytest_quantgate.engines.worker") / "child.py"
        try:
            gateway = self._group.makegateway(f"popen//python={shlex.quote(self._python)}")
            channel = gateway.remote_exec(first_lines.read_text(encoding="utf-8"))
            channel.send(
                (
                    str(self._log) if place is None else place.begin(gateway),
                    os.getpid() if place is None else PARENT_THERE,
                    last_folders() if place is None else [],
                    list((worker_sources() | self._extra).items()),
                    self._entry,
                    self._environment,
                )
            )
        except (OSError, EOFError, AssertionError) as error:
            what = str(error) if place is None else "see that the path is right over there"
            raise CellUnavailable(
                f"the interpreter {self._python!r} cannot be started: {what}"
            ) from error
        self._channel = channel

    def _end(self) -> None:
        is_here = self._place is None
        if self._launcher.process is not None and (self._is_answering or is_here):
            self._launcher.process.kill()  # if busy it would not end when asked to, if idle slowly
        group, self._group, self._channel = self._group, None, None
        if group is not None:
            group.terminate(timeout=2)
        self._launcher.process = None
        self._is_answering = False

"""A connection to a host: its agent, and what the agent says of the machine."""

from __future__ import annotations

import contextlib
import errno
import shlex
import subprocess
import threading
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import execnet

from pytest_quantgate.config.machines import HostSettings
from pytest_quantgate.engines.interpreter import OLDEST_PYTHON
from pytest_quantgate.engines.worker_process import LaunchedThreads, Launcher
from pytest_quantgate.errors import CellUnavailable, EnvironmentProblem, HostLost
from pytest_quantgate.hosts.ssh import explain, start

ANSWER_S = 60.0
"""How long a host has for a question that needs no computing."""

_PULSE_EVERY_S = 10.0
_WATCH = """
import os
while True:
    try:
        channel.receive(60)
    except Exception:
        os._exit(1)
"""
"""Ends a process over there that hears nothing for a minute: its test run is gone."""

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What a host says of itself; ``cache`` and ``log`` are paths there."""

    n_cpus: int
    cache: str
    log: str


class HostLink:
    """A host that is connected to when it is first asked something.

    Args:
        label: its name in the configuration, the only one that is ever told.
        host: how it is reached.
        log: the file for what ssh says.

    """

    def __init__(self, label: str, host: HostSettings, log: Path) -> None:
        self.label = label
        self.host = host
        self._log = log
        self._begin = 0
        self._group: Any = None
        self._channel: Any = None
        self._launcher = Launcher(self._start)
        self._lock = threading.RLock()
        self._facts: HostFacts | None = None
        self._problem: HostLost | None = None

    def _start(self, arguments: list[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        return start(self.host, arguments, self._log, stdin, stdout)

    @property
    def facts(self) -> HostFacts:
        """What the host is, asked once.

        Raises:
            HostLost: it cannot be reached, or lacks what an engine needs; in one line.

        """
        with self._lock:
            if self._problem is not None:
                raise self._problem
            if self._facts is None:
                try:
                    self._facts = self._connect()
                except CellUnavailable as error:
                    self._problem = error if isinstance(error, HostLost) else HostLost(str(error))
                    self.close()
                    raise self._problem from error
            return self._facts

    def _connect(self) -> HostFacts:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        model = LaunchedThreads(self._launcher)
        self._group = execnet.Group(execmodel=model)  # type: ignore[arg-type]  # or its name
        try:
            gateway = self._group.makegateway(f"popen//python={shlex.quote(self.host.python)}")
            source = files("pytest_quantgate.hosts") / "agent.py"
            self._channel = gateway.remote_exec(source.read_text(encoding="utf-8"))
            keep_alive(gateway)
        except (OSError, EOFError, AssertionError) as error:
            raise self._lost() from error
        max_bytes = int(self.host.cache_max_gib * (1 << 30))
        answer = self._ask("open", self.host.cache_dir, self.host.models, max_bytes)
        match answer:
            case (str(version), tuple(missing), int(n_cpus), str(cache), str(log)):
                self._check(version, missing)
                return HostFacts(n_cpus=max(1, n_cpus), cache=cache, log=log)
        raise self._nonsense("open")

    def _check(self, version: str, missing: tuple[Any, ...]) -> None:
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        python = self.host.python
        if numbers < OLDEST_PYTHON:
            oldest = ".".join(map(str, OLDEST_PYTHON))
            raise CellUnavailable(
                f"host {self.label!r}: its interpreter is Python {version[:20]}; an engine needs"
                f" {oldest} or later, so set python in [tool.quantgate.hosts.{self.label}] to a"
                " newer one"
            )
        lacking = [name for name in ("llama_cpp", "numpy") if name in missing]
        if lacking:
            packages = " ".join(lacking).replace("llama_cpp", "llama-cpp-python")
            raise CellUnavailable(
                f"host {self.label!r}: its interpreter has no {' and no '.join(lacking)}; type"
                f" there: {Path(python).name} -m pip install {packages}"
            )

    def ask(self, kind: type[AnswerT], name: str, *arguments: object) -> AnswerT:
        """Ask the agent, and check that the answer is of a kind.

        Raises:
            EnvironmentProblem: the host's disk is full, or it may not write there.
            HostLost: it does not answer, or answers with nonsense.

        """
        with self._lock:
            self.facts  # noqa: B018 # connects
            answer = self._ask(name, *arguments)
        if not isinstance(answer, kind):
            raise self._nonsense(name)
        return answer

    def _ask(self, name: str, *arguments: object) -> Any:
        try:
            self._channel.send((name, arguments))
            answer = self._channel.receive(timeout=None if name == "finish" else ANSWER_S * 10)
        except (OSError, EOFError, self._channel.TimeoutError, self._channel.RemoteError) as error:
            raise self._lost() from error
        match answer:
            case ("ok", value):
                return value
            case ("error", int(code), str()):
                raise self._refused(code)
        raise self._nonsense(name)

    def _refused(self, code: int) -> EnvironmentProblem:
        table = f"[tool.quantgate.hosts.{self.label}]"
        what = {
            errno.ENOSPC: f"its disk is full; make room there, or set cache_dir in {table}",
            errno.EDQUOT: f"the quota there is used up; make room, or set cache_dir in {table}",
            errno.EROFS: f"its cache is read-only; set cache_dir in {table} to another folder",
            errno.EACCES: f"it may not write its cache; set cache_dir in {table} to another folder",
        }
        what[errno.EPERM] = what[errno.EACCES]
        name = errno.errorcode.get(code, str(code))
        return EnvironmentProblem(
            f"host {self.label!r}: "
            f"{what.get(code, f'its cache cannot be used ({name}); see cache_dir in {table}')}"
        )

    def _nonsense(self, name: str) -> HostLost:
        return self._mark(
            HostLost(f"host {self.label!r} answered {name!r} with what is no answer; it is left")
        )

    def _lost(self) -> HostLost:
        if self._launcher.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launcher.process.wait(timeout=2)  # so that all it says is in the log
        meaning = explain(self._log, self._begin)
        return self._mark(HostLost(f"host {self.label!r}: {meaning}"))

    @property
    def lost(self) -> HostLost | None:
        """Why it can no longer be asked, None while it can."""
        return self._problem

    def _mark(self, lost: HostLost) -> HostLost:
        self._problem = self._problem or lost
        return lost

    def leave(self, problem: str) -> HostLost:
        """Ask the host nothing more; return why."""
        return self._mark(HostLost(f"host {self.label!r}: {problem}"))

    def check_alive(self) -> None:
        """See whether the host still answers.

        Raises:
            HostLost: it does not.

        """
        self.ask(str, "ping")

    def scrub(self, text: str) -> str:
        """Return a text from the host without its folders."""
        if self._facts is not None:
            cache = self._facts.cache
            text = text.replace(cache, f"(cache of {self.label})")
            home = cache.partition("/.cache/")[0]
            if len(home) > 1:
                text = text.replace(home, "~")
        return text

    def close(self) -> None:
        """End the connection; what runs there ends with it."""
        process = self._launcher.process
        group, self._group = self._group, None
        if group is not None:
            group.terminate(timeout=1)
        if process is not None and process.poll() is None:
            process.kill()


def keep_alive(gateway: Any) -> None:
    """Let a process over there end if this one falls silent, as when the network is cut."""
    channel = gateway.remote_exec(_WATCH)

    def pulse() -> None:
        with contextlib.suppress(OSError):
            while not channel.isclosed():
                channel.send(None)
                stop.wait(_PULSE_EVERY_S)

    stop = threading.Event()
    channel.setcallback(lambda _item: stop.set(), endmarker=None)
    threading.Thread(target=pulse, name="pulse", daemon=True).start()

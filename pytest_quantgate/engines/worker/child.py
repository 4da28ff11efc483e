"""The first lines that run in a child process: a worker, or a program of llama.cpp.

This file's text is sent to another interpreter in which this package need not be installed, so
it stands alone on the standard library. For a worker it sends the process's output to a log file
before any library is loaded, makes the process die with its parent, and imports the rest of the
worker from the sources that the parent sends. As a script it becomes a program, which then dies
with the test run too.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

_LOOK_EVERY_S = 0.5


class SentSources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from texts that came over the channel."""

    def __init__(self, sources: dict[str, tuple[bool, str]]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module among the sources."""
        del path, target
        if fullname not in self._sources:
            return None
        return importlib.util.spec_from_loader(
            fullname, self, is_package=self._sources[fullname][0]
        )

    def is_package(self, fullname: str) -> bool:
        """Return whether a module is a package."""
        return self._sources[fullname][0]

    def get_source(self, fullname: str) -> str:
        """Return a module's text."""
        return self._sources[fullname][1]


def redirect_output(path: str) -> None:
    """Send stdout and stderr, of C too, to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    os.close(descriptor)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def die_with_parent(parent: int) -> None:
    """End this process when the test run is gone, also when it was killed.

    Linux does it for us; elsewhere a thread looks twice a second, which fails only while C code
    holds the interpreter's lock.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)

    if hasattr(os, "getppid") and os.getppid() == parent:
        threading.Thread(target=watch, daemon=True).start()


class NumberedChannel:
    """Requests without the number that each came with; a reply gets its request's."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._number = 0
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[object]:
        for number, item in self._channel:
            self._number = number
            yield item

    def send(self, item: object) -> None:
        """Send a reply to the present request."""
        with self._lock:
            self._channel.send((self._number, item))


def serve_worker(channel: Any) -> None:
    """Prepare the process, then hand the channel to the module that serves it."""
    log, parent, last_folders, sources, entry, environment = channel.receive()
    redirect_output(log)
    if parent:
        die_with_parent(parent if parent > 0 else os.getppid())
    # On an abort ggml would start a debugger for the backtrace, and hang.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    # Read when a library loads, so before any does; what the user has set stands.
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    sys.path.extend(last_folders)
    sys.meta_path.insert(0, SentSources(dict(sources)))
    requests = NumberedChannel(channel)
    module, _, function = entry.partition(":")
    try:
        serve = getattr(importlib.import_module(module), function)
    except ImportError as error:
        traceback.print_exc()
        for _ in requests:
            command = getattr(error, "command", "")
            content = {"kind": "UNAVAILABLE", "reason": str(error), "command": command}
            requests.send(("Failed", content))
        return
    serve(requests)


NOT_EXECUTABLE = 126
"""The exit status that says, as a shell's does, that the program could not be started."""


def run_program(parent: int, command: list[str]) -> None:
    """Run a program in this process's place, until the test run is gone."""
    try:
        if sys.platform == "linux":
            die_with_parent(parent)  # outlives the exec
            os.execv(command[0], command)  # noqa: S606 # a list of arguments, never a shell line
        else:
            _run_watched(parent, command)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be executed: {error.strerror}\n")
        sys.exit(NOT_EXECUTABLE)


def _run_watched(parent: int, command: list[str]) -> None:
    """Run a program as a child, and end both when the test run is gone."""
    child = subprocess.Popen(command)
    while True:
        try:
            code = child.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                child.kill()
                sys.exit(1)
            continue
        if code < 0:
            os.kill(os.getpid(), -code)  # ends as the program did
        sys.exit(code)


if __name__ == "__channelexec__":
    serve_worker(channel)  # type: ignore[name-defined]  # noqa: F821  # execnet puts it here
elif __name__ == "__main__":
    run_program(int(sys.argv[1]), sys.argv[2:])

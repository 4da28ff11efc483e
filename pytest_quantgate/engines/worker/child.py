"""The first lines that run in a worker process.

This file's text is sent to another interpreter in which this package need not be installed, so
it stands alone on the standard library. It sends the process's output to a log file before any
library is loaded, makes the process die with its parent, and imports the rest of the worker
from the sources that the parent sends.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any


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
        """Tell whether a module is a package."""
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
            time.sleep(0.5)
        os._exit(1)

    if hasattr(os, "getppid") and os.getppid() == parent:
        threading.Thread(target=watch, daemon=True).start()


def main(channel: Any) -> None:
    """Prepare the process, then hand the channel to the module that serves it."""
    log, parent, sources, entry, environment = channel.receive()
    redirect_output(log)
    if parent:
        die_with_parent(parent)
    # On an abort ggml would start a debugger for the backtrace, and hang.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    # Read when a library loads, so before any does; what the user has set stands.
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    sys.meta_path.insert(0, SentSources(dict(sources)))
    module, _, function = entry.partition(":")
    try:
        serve = getattr(importlib.import_module(module), function)
    except ImportError as error:
        traceback.print_exc()
        for _ in channel:
            channel.send(("Failed", {"kind": "UNAVAILABLE", "reason": str(error)}))
        return
    serve(channel)


if __name__ == "__channelexec__":
    main(channel)  # type: ignore[name-defined]  # noqa: F821  # execnet puts it here

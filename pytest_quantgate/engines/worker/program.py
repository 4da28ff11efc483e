"""The first lines of a process that becomes one of llama.cpp's programs.

It makes the process end with the test run, also when that is killed, and then runs the program in
its place. Runs on the standard library alone.
"""

from __future__ import annotations

import os
import subprocess
import sys

from pytest_quantgate.engines.worker.child import die_with_parent

NOT_EXECUTABLE = 126
"""The exit status that says, as a shell's does, that the program could not be started."""

_LOOK_EVERY_S = 0.5


def main() -> None:
    """Run ``sys.argv``: the test run's process id, a program and its arguments."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
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

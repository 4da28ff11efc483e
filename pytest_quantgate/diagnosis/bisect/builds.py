"""An engine for each candidate: an environment a release, or libraries built from a commit."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pytest_quantgate.diagnosis.bisect.histories import git
from pytest_quantgate.storage.atomic import write_atomically

_LIBRARIES = ("*.so*", "*.dylib")
_CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_COMMON=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)


class BuildFailed(Exception):
    """A candidate cannot be built; the text says why. It is skipped."""


class Builder(Protocol):
    """Makes the engine of a candidate."""

    def python(self, candidate: str) -> Path:
        """Return an interpreter whose llama-cpp-python is the candidate.

        Raises:
            BuildFailed: there can be none.

        """


class ReleaseBuilder:
    """A virtual environment for each release, kept from one bisection to the next.

    Args:
        folder: where environments are made.
        given: interpreters that are there already, by their release.
        log: takes the output of pip.

    """

    def __init__(self, folder: Path, given: Mapping[str, Path], log: Path) -> None:
        self._folder = folder
        self._given = given
        self._log = log

    def python(self, candidate: str) -> Path:
        """Return the release's interpreter, installed now if it is not there."""
        if candidate in self._given:
            return self._given[candidate]
        folder = self._folder / candidate
        python, done = folder / "bin" / "python", folder / "installed"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)], self._log)
            wanted = [f"llama-cpp-python=={candidate}", "numpy"]
            _run([str(python), "-m", "pip", "install", "--quiet", *wanted], self._log)
            done.touch()
        return python


class CommitBuilder:
    """Libraries of llama.cpp from a worktree, built in one folder that is kept.

    The interpreter stays this one: a script starts it with ``LLAMA_CPP_LIB_PATH``, so that its
    llama-cpp-python loads the libraries of the commit. Those whose structures are laid out in
    another way are refused by the engine and skipped.

    Args:
        worktree: is checked out at the candidate.
        folder: of the build, and of each commit's libraries.
        options: further arguments of CMake.
        jobs: how many compilers run at once.
        log: takes the output of CMake.

    """

    def __init__(
        self, worktree: Path, folder: Path, options: Sequence[str], jobs: int, log: Path
    ) -> None:
        self._worktree = worktree
        self._folder = folder
        self._options = tuple(options)
        self._jobs = jobs
        self._log = log

    def python(self, candidate: str) -> Path:
        """Return a script that starts this interpreter with the commit's libraries."""
        libraries = self._folder / "libraries" / candidate
        python = libraries / "python"
        if not python.exists():
            self._build(candidate)
            libraries.mkdir(parents=True, exist_ok=True)
            for pattern in _LIBRARIES:
                for path in (self._folder / "build" / "bin").glob(pattern):
                    shutil.copy2(path, libraries / path.name)
            words = [f"LLAMA_CPP_LIB_PATH={shlex.quote(str(libraries))}", "exec"]
            script = " ".join([*words, shlex.quote(sys.executable), '"$@"'])
            write_atomically(python, f"#!/bin/sh\n{script}\n".encode())
            python.chmod(0o755)
        return python

    def _build(self, candidate: str) -> None:
        git(self._worktree, "checkout", "--quiet", "--force", "--detach", candidate)
        build = str(self._folder / "build")
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        configure = ["cmake", "-S", str(self._worktree), "-B", build, *generator]
        _run([*configure, *_CMAKE, *self._options], self._log)
        targets = ["--target", "llama", "--parallel", str(self._jobs)]
        _run(["cmake", "--build", build, *targets], self._log)


def _run(command: Sequence[str], log: Path) -> None:
    """Run a step of a build.

    Raises:
        BuildFailed: it failed; the end of what it printed says why.

    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as output:
            environment = {**os.environ, "LC_ALL": "C"}
            subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, check=True, env=environment
            )
    except FileNotFoundError as error:
        raise BuildFailed(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        what = shlex.join(command[:3])
        raise BuildFailed(f"{what} … failed with status {error.returncode}; see {log}") from error

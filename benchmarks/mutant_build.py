"""Builds of llama.cpp that differ from a finished one by a small edit of one source file.

Only what the edit touches is built: the compiler's command for that file is replayed with the
edited text in the file's place, and the linker's for the one library that it belongs to. Every
other library is the finished build's own file. So many can be built at once, none disturbs
another, and a mutant takes seconds.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_NATIVE=OFF",
    "-DLLAMA_CURL=OFF",
    *(f"-DLLAMA_BUILD_{what}=OFF" for what in ("COMMON", "TESTS", "EXAMPLES", "TOOLS", "SERVER")),
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
)
"""A build for the processor alone, whose libraries find each other in their own folder."""


class BuildError(Exception):
    """A build failed; the text is the end of what it printed."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One edit: behind the first ``after`` in ``file``, the first ``old`` becomes ``new``."""

    file: str
    after: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """Return a file's text with the edit.

        Raises:
            BuildError: the place is not there.

        """
        start = text.find(self.after)
        at = text.find(self.old, start + len(self.after)) if start >= 0 else -1
        if at < 0:
            what = self.after if start < 0 else self.old
            raise BuildError(f"{self.file} has no {what!r}")
        return text[:at] + self.new + text[at + len(self.old) :]

    def line(self, text: str) -> int:
        """Return the number of the edited line, from 1."""
        at = text.find(self.old, text.find(self.after) + len(self.after))
        return text.count("\n", 0, at) + 1


class Build:
    """A build of llama.cpp with CMake and ninja.

    Args:
        source: llama.cpp.
        folder: of the build; made by :meth:`make`.

    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source.resolve()
        self.folder = folder.resolve()

    @property
    def libraries(self) -> Path:
        """The folder of the libraries."""
        return self.folder / "bin"

    def make(self, jobs: int) -> None:
        """Configure and compile; what is there already is kept."""
        configure = ["cmake", "-S", str(self.source), "-B", str(self.folder), "-G", "Ninja"]
        _run([*configure, *CMAKE])
        _run(["ninja", "-C", str(self.folder), "-j", str(jobs), "llama"])

    def make_test(self, name: str) -> Path:
        """Compile one of llama.cpp's tests that need ggml alone, and return the program."""
        program = self.folder / name
        if not program.exists():
            include = [f"-I{self.source / 'ggml' / folder}" for folder in ("include", "src")]
            libraries = ["-lggml", "-lggml-cpu", "-lggml-base"]
            path = str(self.source / "tests" / f"{name}.cpp")
            command = ["c++", "-std=c++17", "-O2", *include, path, "-o", str(program)]
            _run([*command, f"-L{self.libraries}", *libraries])
        return program

    def mutate(self, edit: Edit, folder: Path) -> None:
        """Write the libraries of the build with an edit into a folder.

        Raises:
            BuildError: the edit does not fit, or does not compile.

        """
        folder.mkdir(parents=True, exist_ok=True)
        original = self.source / edit.file
        edited = folder / original.name
        edited.write_text(edit.apply(original.read_text(encoding="utf-8")), encoding="utf-8")
        entry = self._compile_command(original)
        made = folder / "edited.o"
        words = shlex.split(entry["command"])
        object_file = words[words.index("-o") + 1]
        exchanged = {str(original): str(edited), object_file: str(made)}
        # What the file includes by its own place is still found there.
        include = ["-iquote", str(original.parent)]
        command = [exchanged.get(word, word) for word in words]
        _run([*command, *include], Path(entry["directory"]))
        self._link(object_file, made, folder)

    def _compile_command(self, path: Path) -> dict[str, str]:
        database = json.loads((self.folder / "compile_commands.json").read_text(encoding="utf-8"))
        for entry in database:
            if entry["file"] == str(path):
                return dict(entry)
        raise BuildError(f"{path} is not compiled by itself")

    def _link(self, object_file: str, made: Path, folder: Path) -> None:
        """Link the library of an object anew, and put the others beside it."""
        target = next(part for part in Path(object_file).parts if part.endswith(".dir"))
        prefix = f"lib{target.removesuffix('.dir')}.so"
        for path in self.libraries.glob("*.so*"):
            copy = folder / path.name
            copy.unlink(missing_ok=True)
            if path.is_symlink():
                copy.symlink_to(path.readlink())
            elif not path.name.startswith(prefix):
                os.link(path, copy)
        library = next(path for path in self.libraries.glob(f"{prefix}.*") if not path.is_symlink())
        name = f"bin/{library.name}"
        line = _run(["ninja", "-C", str(self.folder), "-t", "commands", "-s", name])
        command = line.splitlines()[-1]
        for old, new in ((object_file, made), (name, folder / library.name)):
            command = command.replace(f" {old} ", f" {shlex.quote(str(new))} ")
        _run(["sh", "-c", command], self.folder)


def write_interpreter(libraries: Path) -> Path:
    """Write a script that starts this interpreter with other libraries of llama.cpp."""
    python = libraries / "python"
    words = [f"LLAMA_CPP_LIB_PATH={shlex.quote(str(libraries))}", "exec"]
    python.write_text(f'#!/bin/sh\n{" ".join([*words, sys.executable])} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return python


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    """Run a command and return what it printed.

    Raises:
        BuildError: it failed.

    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr).strip().splitlines()
        raise BuildError(" / ".join([shlex.join(command[:2]), *output[-4:]]))
    return done.stdout

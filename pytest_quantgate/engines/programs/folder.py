"""A folder of llama.cpp's programs: finding them, running them, and telling what went wrong."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_quantgate.engines.programs.output import read_refusal
from pytest_quantgate.engines.programs.process import OnLine, run_program
from pytest_quantgate.engines.worker_process import describe_exit, with_log
from pytest_quantgate.errors import CellCrashed, CellError, CellUnavailable, CellUnsupported

PERPLEXITY, QUANTIZE = "llama-perplexity", "llama-quantize"
TOKENIZE, IMATRIX, BENCH = "llama-tokenize", "llama-imatrix", "llama-bench"

Argument = str | int | Path

_RECENT_LINES = 50


class ProgramFolder:
    """The programs of one build.

    Args:
        path: the folder.
        log: the file for their output.
        stall_s: seconds without output after which a program is ended.

    """

    def __init__(self, path: Path, *, log: Path, stall_s: float) -> None:
        self.path = path
        self._log = log
        self._stall_s = stall_s
        self._recent: deque[str] = deque(maxlen=_RECENT_LINES)

    def has(self, name: str) -> bool:
        """Return whether a program is there."""
        return self._file(name) is not None

    def find(self, name: str) -> Path:
        """Return a program's file; raises ``CellUnavailable`` where it is not there."""
        found = self._file(name)
        if found is None:
            raise CellUnavailable(
                f"there is no program {name} in {self.path}; build it there or change tools",
                command=f"cmake --build build --target {name}",
            )
        return found

    def run(
        self,
        name: str,
        arguments: Sequence[Argument],
        on_line: OnLine = lambda _line: None,
        output: Path | None = None,
        *,
        quiet_threads: bool = True,
    ) -> int:
        """Run a program to its end and return its exit status; see :func:`run_program`."""
        self._recent.clear()

        def listen(line: str) -> None:
            self._recent.append(line)
            on_line(line)

        return run_program(
            self.find(name),
            [str(part) for part in arguments],
            log=self._log,
            stall_s=self._stall_s,
            on_line=listen,
            output=output,
            quiet_threads=quiet_threads,
        )

    def read_all(
        self, name: str, arguments: Sequence[Argument], read: Callable[[str], str | None]
    ) -> list[str]:
        """Run a program and return what a reader found in its lines.

        Raises:
            CellCrashed: the program was ended by a signal.

        """
        found: list[str] = []

        def on_line(line: str) -> None:
            value = read(line)
            if value is not None:
                found.append(value)

        code = self.run(name, arguments, on_line)
        if code < 0:
            raise self.crash(name, code, "ended early")
        return found

    def read_one(
        self, name: str, arguments: Sequence[Argument], read: Callable[[str], str | None]
    ) -> str:
        """Run a program and return the first thing that a reader found in its lines.

        Raises:
            CellCrashed: the program was ended by a signal.
            CellUnavailable: it printed nothing of the kind.

        """
        found = self.read_all(name, arguments, read)
        if not found:
            command = shlex.join(str(part) for part in (self.find(name), *arguments))
            what = f"{self.path} holds no {name} of llama.cpp that runs here; try: {command}"
            raise CellUnavailable(with_log(what, self._log))
        return found[0]

    def crash(self, name: str, code: int, what: str) -> CellCrashed:
        """Return the error of a program that broke."""
        text = with_log(f"{name} {what} ({describe_exit(code)})", self._log)
        return CellCrashed(text, exit_code=code)

    def failure(self, name: str, code: int) -> CellError:
        """Return the error of a refusal with its reason, or that of a program that broke."""
        refusal = read_refusal(list(self._recent)) if code >= 0 else None
        if refusal is not None:
            return CellUnsupported(f"{name}: {refusal}")
        return self.crash(name, code, "did not print its result")

    def _file(self, name: str) -> Path | None:
        for path in (self.path / name, self.path / f"{name}.exe"):
            if path.is_file():
                return path.absolute()
        return None

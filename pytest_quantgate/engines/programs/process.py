"""Runs one program of llama.cpp: its output in a log, a deadline that follows it, no leftovers."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from pytest_quantgate.engines.worker import child
from pytest_quantgate.engines.worker_process import QUIET_THREADS, log_tail, with_log
from pytest_quantgate.errors import CellCrashed, CellTimeout, CellUnavailable

OnLine = Callable[[str], None]

MAX_LOG_BYTES = 256 << 20
"""A program that prints more than this is taken for one that never ends."""

_LOOK_EVERY_S = 0.05


def run_program(
    program: Path,
    arguments: Sequence[str],
    *,
    log: Path,
    stall_s: float,
    on_line: OnLine = lambda _line: None,
    output: Path | None = None,
    quiet_threads: bool = True,
) -> int:
    """Run a program to its end and return its exit status, negative for a signal.

    Its output is appended to ``log``, standard output to ``output`` instead where that is given.
    All that it started is ended with it, whatever happens.

    Args:
        program: the file.
        arguments: its arguments.
        log: takes the output.
        stall_s: seconds without any output after which it is ended.
        on_line: is shown each line of the log as it comes.
        output: a file for standard output alone.
        quiet_threads: let its threads sleep while they wait, unless the environment says how.

    Raises:
        CellUnavailable: the file cannot be executed on this machine.
        CellTimeout: no output for ``stall_s`` seconds.
        CellCrashed: output without end.

    """
    if not os.access(program, os.X_OK):
        raise CellUnavailable(f"{program} is not executable", command=f"chmod +x {program}")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(program), *arguments]
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab"))
        sink.write(f"$ {shlex.join(command)}\n".encode())
        sink.flush()
        begin = sink.tell()
        out: BinaryIO = sink if output is None else stack.enter_context(output.open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=sink,
            env=_environment(os.environ, quiet_threads=quiet_threads),
            start_new_session=os.name == "posix",
        )
    try:
        code = _follow(process, _Follower(log, begin, on_line), output, stall_s, program)
    finally:
        _end_group(process)
    if code == child.NOT_EXECUTABLE:
        raise CellUnavailable("".join(log_tail(log, 1, begin)) or f"{program} cannot be executed")
    return code


def _environment(given: Mapping[str, str], *, quiet_threads: bool) -> dict[str, str]:
    """Return the environment without what would set options behind the profile's back."""
    kept = {
        name: value
        for name, value in given.items()
        if not name.startswith(("LLAMA_ARG_", "LLAMA_LOG_"))
    }
    # On an abort ggml would start a debugger for the backtrace, and hang.
    quiet = QUIET_THREADS if quiet_threads else {}
    return {**quiet, **kept, "GGML_NO_BACKTRACE": "1"}


class _Follower:
    """Shows the whole lines that a file grows by."""

    def __init__(self, path: Path, begin: int, on_line: OnLine) -> None:
        self.path = path
        self._on_line = on_line
        self._pending = b""
        self.n_bytes = 0
        self.begin = begin

    def read(self, *, to_end: bool = False) -> bool:
        """Show what is new, and tell whether anything was."""
        with self.path.open("rb") as stream:
            stream.seek(self.begin + self.n_bytes)
            data = stream.read()
        self.n_bytes += len(data)
        *whole, self._pending = (self._pending + data).split(b"\n")
        if to_end and self._pending:
            whole.append(self._pending)
        for line in whole:
            self._on_line(line.decode(errors="replace").rstrip("\r"))
        return bool(data)


def _follow(
    process: subprocess.Popen[bytes],
    follower: _Follower,
    output: Path | None,
    stall_s: float,
    program: Path,
) -> int:
    written, sign_s = 0, time.monotonic()
    while True:
        try:
            code: int | None = process.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            code = None
        grew = follower.read(to_end=code is not None)
        if output is not None and output.stat().st_size != written:
            written, grew = output.stat().st_size, True
        if follower.n_bytes + written > MAX_LOG_BYTES:
            what = f"{program.name} printed {MAX_LOG_BYTES >> 20} MiB and went on; it was ended"
            raise CellCrashed(with_log(what, follower.path, follower.begin))
        if code is not None:
            return code
        if grew:
            sign_s = time.monotonic()
        elif time.monotonic() - sign_s > stall_s:
            what = f"{program.name} printed nothing for {stall_s:g} s; it was ended"
            raise CellTimeout(with_log(what, follower.path, follower.begin))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started."""
    if os.name == "posix":
        # The program leads a session of its own, so nothing else is in its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        with contextlib.suppress(psutil.NoSuchProcess):
            for started in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    started.kill()
            process.kill()
    process.wait()

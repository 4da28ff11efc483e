"""How another machine is reached: the command, and what its failures mean."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from pytest_quantgate.config.machines import HostSettings

MOST_BYTES = 1 << 26
"""The largest message that a host may send: a whole file comes in blocks."""

_ALWAYS = (
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ControlMaster=no"),
)

_SAID = (
    (
        r"Host key verification failed|HOST IDENTIFICATION HAS CHANGED",
        "its host key is not known, or is another one than before; connect once with ssh in a"
        " terminal, compare the fingerprint with the machine's own, and accept it",
    ),
    (
        r"Permission denied \(|Too many authentication failures",
        "it takes none of your keys; load the key with ssh-add, or put it there with ssh-copy-id",
    ),
    (
        r"Could not resolve hostname|Name or service not known",
        "its name is not known; correct the ssh destination",
    ),
    (r"Connection refused", "nothing listens for ssh there; start sshd, or correct the port"),
    (
        r"timed out|No route to host|Network is unreachable|not responding",
        "it does not answer; see that it is up and that the network reaches it",
    ),
    (
        r"not found|No such file or directory|Exec format error|cannot execute|Permission denied",
        "the interpreter cannot be started there; set python to the path of one that has"
        " llama-cpp-python",
    ),
)


def ssh_command(host: HostSettings, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a program on a host.

    The far side's shell reads one line, of which every word is quoted; a program in ``~/`` is
    looked for in the home folder there.
    """
    environment = [f"{name}={value}" for name, value in host.environment.items()]
    program, *rest = arguments
    in_home = program.removeprefix("~/")
    quoted = shlex.quote(program) if in_home == program else f'"$HOME"/{shlex.quote(in_home)}'
    first = shlex.join(["exec", "env", "PYTHONSAFEPATH=1", *environment])
    line = f"{first} {quoted} {shlex.join(rest)}"
    return ["ssh", *_ALWAYS, *host.options, "--", host.ssh, line]


class _Bounded:
    """A pipe from which no message is read that is larger than any honest one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        """Read, or end the connection: what is announced would not fit."""
        if size > MOST_BYTES:
            raise EOFError(f"a message of {size} bytes was announced")
        return self._stream.read(size)

    def fileno(self) -> int:
        """Return the pipe's descriptor."""
        return self._stream.fileno()

    def close(self) -> None:
        """Close the pipe."""
        self._stream.close()


def start(
    host: HostSettings, arguments: Sequence[str], log: Path, stdin: int, stdout: int
) -> subprocess.Popen[bytes]:
    """Start a program on a host; what ssh and the program complain of goes to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            ssh_command(host, arguments), stdin=stdin, stdout=stdout, stderr=errors
        )
    assert process.stdout is not None
    process.stdout = cast("Any", _Bounded(process.stdout))
    return process


def explain(log: Path, begin: int) -> str:
    """Return what a failed connection means, without a name, user or path."""
    with log.open("rb") as stream:
        stream.seek(max(begin, stream.seek(0, os.SEEK_END) - MOST_BYTES))
        said = stream.read().decode(errors="replace")
    for pattern, meaning in _SAID:
        if re.search(pattern, said, re.IGNORECASE):
            return meaning
    return "the connection ended; see that it is up, and run again"

"""Hosts for tests: a real sshd each, on a loopback address, with a home folder of its own."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

import pytest_quantgate

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)

WHY_NOT = (
    "needs sshd and ssh (apt-get install openssh-server)"
    if SSHD is None or shutil.which("ssh") is None
    else "needs the addresses 127.0.0.2 to 127.0.0.4, on Linux"
    if sys.platform != "linux"
    else None
)
"""Why no host can be made here; None where one can."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A running sshd."""

    label: str
    address: str
    port: int
    home: Path
    keys: Path
    server: subprocess.Popen[bytes]

    def table(self, *, known: bool = True, **settings: object) -> str:
        """Return its table of the configuration; ``known`` tells whether its key is accepted."""
        known_hosts = self.keys / ("known_hosts" if known else "no_hosts")
        options = [
            *("-F", "none"),
            *("-p", str(self.port)),
            *("-i", str(self.keys / "user")),
            *("-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={known_hosts}"),
            *("-o", "GlobalKnownHostsFile=none"),
        ]
        given = {
            "ssh": f"{getpass.getuser()}@{self.address}",
            "options": options,
            "python": sys.executable,
            **settings,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
        return "\n".join([f"[tool.quantgate.hosts.{self.label}]", *lines, ""])

    def processes(self) -> list[psutil.Process]:
        """Return what runs in its sessions."""
        running = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home):
                    running.append(process)
            except psutil.Error:
                continue
        return running

    def wait_until_empty(self, seconds_s: float = 20.0) -> list[psutil.Process]:
        """Return what still runs there after some time at most."""
        until_s = time.monotonic() + seconds_s
        while (running := self.processes()) and time.monotonic() < until_s:
            time.sleep(0.1)
        return running

    def cut(self) -> None:
        """Kill the server and its sessions, as a machine does that loses its power."""
        children = psutil.Process(self.server.pid).children(recursive=True)
        self.server.kill()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue


def make_key(path: Path) -> None:
    """Make a key pair."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


_APART = """
set -e
mkdir -p "$2"; mount --rbind "$1" "$2"
for hidden in "$3" "$4"; do mount -t tmpfs tmpfs "$hidden"; done
mkdir -p "$1"; mount --move "$2" "$1"
shift 4; exec "$@"
"""
"""Starts a command that does not see this machine's temporary files, nor this package."""


def _apart(folder: Path) -> list[str]:
    """Return what comes before a command so that it sees of the tests nothing but a folder.

    Else a path of this machine that is sent to a host by mistake would lead to the file there.
    """
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return []
    aside = Path(f"/run/quantgate-{os.getpid()}-{folder.name}")
    package = Path(pytest_quantgate.__file__).parent
    paths = map(str, (folder, aside, folder.parent, package))
    return ["unshare", "--mount", "sh", "-c", _APART, "sh", *paths]


@contextmanager
def running_host(folder: Path, label: str, number: int) -> Iterator[Host]:
    """Run a host at 127.0.0.``number``."""
    address = f"127.0.0.{number}"
    keys, home = folder / "keys", folder / label / "home"
    for path in (keys, home):
        path.mkdir(parents=True, exist_ok=True)
    if not (keys / "user").exists():
        make_key(keys / "user")
    make_key(folder / label / "host_key")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    public = (folder / label / "host_key.pub").read_text(encoding="utf-8")
    with (keys / "known_hosts").open("a", encoding="utf-8") as known:
        known.write(f"[{address}]:{port} {public}")
    config = folder / label / "sshd_config"
    config.write_text(
        "\n".join(
            [
                f"ListenAddress {address}:{port}",
                f"HostKey {folder / label / 'host_key'}",
                f"AuthorizedKeysFile {keys / 'user.pub'}",
                f"SetEnv HOME={home}",
                "PidFile none",
                "StrictModes no",
                "UsePAM no",
                "PermitRootLogin yes",
                "PasswordAuthentication no",
                "",
            ]
        ),
        encoding="utf-8",
    )
    with (folder / label / "sshd.log").open("wb") as log:
        server = subprocess.Popen(
            [*_apart(folder), str(SSHD), "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    host = Host(label=label, address=address, port=port, home=home, keys=keys, server=server)
    try:
        for _ in range(100):
            with socket.socket() as there:
                if there.connect_ex((address, port)) == 0:
                    break
            time.sleep(0.05)
        yield host
    finally:
        host.cut()
        server.wait()

"""What is on the hosts of a configuration, asked of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_quantgate.config.machines import HostSettings
from pytest_quantgate.engines.inventory import list_devices
from pytest_quantgate.engines.messages import EngineDevice, Identity
from pytest_quantgate.hosts.link import HostLink
from pytest_quantgate.hosts.remote_engine import RemoteEngine
from pytest_quantgate.storage.keys import file_sha256


@dataclass(frozen=True, kw_only=True)
class HostAnswer:
    """What a host's engine is, its devices, and how many processors it may use."""

    identity: Identity
    devices: tuple[EngineDevice, ...]
    n_cpus: int


def ask_host(
    label: str, host: HostSettings, folder: Path, stall_s: float, engine: str = "default"
) -> HostAnswer:
    """Ask a host what it has; nothing stays running there.

    Args:
        label: its name in the configuration.
        host: how it is reached.
        folder: takes the logs.
        stall_s: how long its engine may be silent.
        engine: the engine's name in the configuration.

    Raises:
        CellError: it cannot be reached, or lacks what an engine needs; in one line.

    """
    link = HostLink(label, host, folder / f"{label}.ssh.log")
    remote = RemoteEngine(
        link=link,
        name=engine,
        log=folder / f"{label}.log",
        stall_s=stall_s,
        sha256_of=file_sha256,
        on_copy=lambda *_progress: None,
    )
    try:
        return HostAnswer(
            identity=remote.identity(), devices=list_devices(remote), n_cpus=link.facts.n_cpus
        )
    finally:
        remote.close()
        link.close()

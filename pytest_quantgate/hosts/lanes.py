"""Lanes: what can compute at the same time, found from the devices that a run uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce

from pytest_quantgate.config.machines import DeviceSettings
from pytest_quantgate.engines.messages import EngineDevice
from pytest_quantgate.engines.messages.placement import CPU
from pytest_quantgate.errors import CellUnavailable


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A device of a host with a worker of its own, or several that cannot be told apart.

    ``backends`` says for each device of the configuration that the lane serves which of the
    engine's devices it takes; ``cpus`` are the processors that its workers are kept to, empty for
    all; ``host`` is the label of another machine, None for this one.
    """

    name: str
    backends: Mapping[str, tuple[str, ...]]
    cpus: tuple[int, ...] = ()
    host: str | None = None

    def serves(self, device: str) -> bool:
        """Return whether cells of a device can be measured here."""
        return device in self.backends


def pool_members(name: str, pattern: str, devices: Iterable[EngineDevice]) -> tuple[str, ...]:
    """Return the engine's devices that make up a pool, such as ``CUDA*``.

    Raises:
        CellUnavailable: there is none, or they are not equal, so that a figure would depend on
            which of them was free.

    """
    listed = tuple(devices)
    members = [device for device in listed if fnmatchcase(device.name, pattern)]
    if not members:
        there = ", ".join(device.name for device in listed)
        raise CellUnavailable(f"device {name!r}: the engine has no {pattern!r}; there are: {there}")
    kinds = {device.description: device.name for device in members}
    if len(kinds) > 1:
        unlike = ", ".join(f"{device} ({kind})" for kind, device in kinds.items())
        raise CellUnavailable(
            f"device {name!r}: {pattern} takes unlike devices together: {unlike}; name each kind"
            f" as a device of its own, as [tool.quantgate.devices.{name}] backend ="
            f' "{members[0].name}"'
        )
    return tuple(device.name for device in members)


def lanes_of(
    devices: Mapping[str, DeviceSettings], pools: Mapping[tuple[str, str | None], tuple[str, ...]]
) -> tuple[Lane, ...]:
    """Return the lanes of the devices that a run uses, in their order.

    Devices that share a part of the hardware are one lane: their cells take turns. A pool is a
    lane a member.

    Args:
        devices: the configuration's devices, by name.
        pools: the members of each device that is a pool, by the device's name and the host's label.

    """
    groups: list[_Group] = []
    for name, device in devices.items():
        members = (
            (host, names)
            for host in device.hosts
            for names in ([(m,) for m in pools[name, host]] if device.is_pool else [device.names])
        )
        for host, names in members:
            joined = _Group(
                host=host,
                hardware={(item, cpu) for item in names for cpu in _processors(item, device)},
                backends={name: names},
                cpus=device.processors,
            )
            apart = [group for group in groups if not group.overlaps(joined)]
            together = [group for group in groups if group.overlaps(joined)]
            groups = [*apart, reduce(_Group.joined, [*together, joined])]
    return tuple(group.lane() for group in groups)


_ALL = -1
"""Stands for every processor."""


def _processors(backend: str, device: DeviceSettings) -> tuple[int, ...]:
    return (device.processors or (_ALL,)) if backend == CPU else (_ALL,)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Devices that share hardware: pairs of a backend's device and a processor."""

    host: str | None
    hardware: set[tuple[str, int]]
    backends: dict[str, tuple[str, ...]]
    cpus: tuple[int, ...]

    def overlaps(self, other: _Group) -> bool:
        """Return whether both need the same hardware."""
        return self.host == other.host and any(
            name == theirs and (cpu == their_cpu or _ALL in (cpu, their_cpu))
            for name, cpu in self.hardware
            for theirs, their_cpu in other.hardware
        )

    def joined(self, other: _Group) -> _Group:
        """Return both as one."""
        return _Group(
            host=self.host,
            hardware=self.hardware | other.hardware,
            backends=self.backends | other.backends,
            cpus=self.cpus if self.cpus == other.cpus else (),
        )

    def lane(self) -> Lane:
        """Return the lane of these devices."""
        names = dict.fromkeys(f"{name}:{','.join(used)}" for name, used in self.backends.items())
        name = " ".join(names)
        return Lane(
            name=f"{self.host}/{name}" if self.host else name,
            backends=self.backends,
            cpus=self.cpus,
            host=self.host,
        )

"""Which devices an engine has, as a user names them."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages import ListDevices
from pytest_quantgate.engines.messages.placement import CPU
from pytest_quantgate.errors import RequestUnknown


@dataclass(frozen=True, kw_only=True)
class DeviceFound:
    """A device; the description is empty and the memory 0 where the engine does not tell.

    ``splits_rows``: whether the build can split rows of a tensor over it, None where the engine
    does not tell.
    """

    name: str
    description: str
    free_bytes: int
    total_bytes: int
    splits_rows: bool | None = None


def list_devices(engine: Engine) -> tuple[DeviceFound, ...]:
    """Return an engine's devices, ``cpu`` first: what its backends call CPU is that one.

    Raises:
        CellError: the engine does not answer.

    """
    splitting_rows: tuple[str, ...] | None = None
    try:
        reply = engine.ask(ListDevices())
        rows, splitting_rows = reply.rows, reply.splitting_rows
    except RequestUnknown:
        rows = tuple((name, "", 0, 0) for name in engine.identity().devices)
    found = {CPU: DeviceFound(name=CPU, description="", free_bytes=0, total_bytes=0)}
    for name, description, free_bytes, total_bytes in rows:
        known_as = CPU if name.lower() == CPU else name
        found[known_as] = DeviceFound(
            name=known_as,
            description=description,
            free_bytes=free_bytes,
            total_bytes=total_bytes,
            splits_rows=None if splitting_rows is None else name in splitting_rows,
        )
    return tuple(found.values())


def device_lines(devices: tuple[DeviceFound, ...]) -> list[str]:
    """Return a line a device."""
    width = max(len(device.name) for device in devices)
    lines = []
    for device in devices:
        words = [device.description] if device.description else []
        if device.total_bytes:
            free, total = device.free_bytes / 1e9, device.total_bytes / 1e9
            words.append(f"{free:,.1f} of {total:,.1f} GB free")
        if device.name == CPU:
            words.append("every other device is hidden")
        lines.append(f"{device.name.ljust(width)}  {', '.join(words)}".rstrip())
    return lines

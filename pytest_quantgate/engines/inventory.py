"""Which devices an engine has, as a user names them."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages import EngineDevice, ListDevices
from pytest_quantgate.engines.messages.placement import CPU
from pytest_quantgate.errors import RequestUnknown


def list_devices(engine: Engine) -> tuple[EngineDevice, ...]:
    """Return an engine's devices, ``cpu`` first: what its backends call CPU is that one.

    Raises:
        CellError: the engine does not answer.

    """
    try:
        devices = engine.ask(ListDevices()).devices
    except RequestUnknown:
        devices = tuple(EngineDevice(name=name) for name in engine.identity().devices)
    by_name = {CPU: EngineDevice(name=CPU)}
    for device in devices:
        name = CPU if device.name.lower() == CPU else device.name
        by_name[name] = replace(device, name=name)
    return tuple(by_name.values())


def device_lines(devices: tuple[EngineDevice, ...]) -> list[str]:
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

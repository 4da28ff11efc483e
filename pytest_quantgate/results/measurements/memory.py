"""Memory: what one process takes to decode a full context, and the engine's own buffers."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.results.hardware import Fingerprint


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One of the engine's buffers, to 0.01 MiB; a kind is ``model``, ``KV`` or ``compute``, say."""

    kind: str
    where: str
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """What one process took of a device's own memory, and how much the device has."""

    device: str
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryMeasurement:
    """One fresh process after a full context; None is what the platform does not tell.

    ``peak_resident_bytes`` is the most that it held in RAM, mapped weights and the Python that
    carries it included; ``resident_before_bytes`` what that was before the model was loaded.
    ``buffers`` are empty where the engine's log does not name them.
    """

    peak_resident_bytes: int | None
    resident_before_bytes: int | None
    load_s: float
    buffers: tuple[Buffer, ...]
    devices: tuple[DeviceMemory, ...]
    n_ctx: int
    n_batch: int
    n_ubatch: int
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        if self.peak_resident_bytes is not None and self.peak_resident_bytes < 1:
            raise ValueError(f"a peak of {self.peak_resident_bytes} bytes")

    def buffer_bytes(self, kind: str) -> int | None:
        """Return the sum of the engine's buffers of a kind, None where it names none."""
        found = [item.n_bytes for item in self.buffers if item.kind == kind]
        return sum(found) if found else None


def memory_figures(measured: MemoryMeasurement) -> dict[str, float]:
    """Return what stands beside a test's result."""
    figures: dict[str, float] = {"quant_load_s": measured.load_s}
    if measured.peak_resident_bytes is not None:
        figures["quant_peak_resident_bytes"] = measured.peak_resident_bytes
    for device in measured.devices:
        figures[f"quant_{device.device}_used_bytes"] = device.used_bytes
    return figures

"""What a file costs: time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import BatchedRequest, Message


@dataclass(frozen=True, kw_only=True)
class SpeedMeasured(Message):
    """How long each run took, in order, in nanoseconds: those that only warmed up apart.

    ``prefill_*`` are whole prompts, ``decode_*`` all tokens of one run; a warm-up that decodes
    takes fewer tokens. ``*_is_warm`` tells that the last two warm-ups took equally long.
    ``load_s`` is None where an engine does not tell. ``decode_loop_ns`` is a run with what the
    worker does between two tokens. ``cpu_s`` is the processor time of the whole process.
    ``device_description`` and ``driver`` are empty on a CPU.
    """

    process_id: int
    load_s: float | None
    prefill_ns: tuple[int, ...]
    decode_ns: tuple[int, ...]
    prefill_warmup_ns: tuple[int, ...]
    decode_warmup_ns: tuple[int, ...]
    prefill_is_warm: bool
    decode_is_warm: bool
    decode_loop_ns: tuple[int, ...]
    cpu_s: float
    device_description: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class MeasureSpeed(BatchedRequest[SpeedMeasured]):
    """Time prompts and decoding of random tokens, as llama-bench does.

    ``n_depth`` tokens are in the memory beforehand, untimed.
    """

    reply: ClassVar[type[Message]] = SpeedMeasured
    alone: ClassVar[bool] = True

    n_prompt: int
    n_decode: int
    n_depth: int
    repetitions: int


@dataclass(frozen=True, kw_only=True)
class BufferSize(Message):
    """A buffer as the engine reports it, of a kind such as ``model``, ``KV`` or ``compute``."""

    kind: str
    where: str
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeviceUse(Message):
    """What this process took of a device's memory."""

    device: str
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryMeasured(Message):
    """What one process holds after it has decoded a full context.

    ``peak_resident_bytes`` is None where the platform does not tell; ``resident_before_bytes``
    is the same figure before the model was loaded.
    """

    peak_resident_bytes: int | None
    resident_before_bytes: int | None
    load_s: float
    buffers: tuple[BufferSize, ...]
    devices: tuple[DeviceUse, ...]
    device_description: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class MeasureMemory(BatchedRequest[MemoryMeasured]):
    """Load a model, fill its context once, and tell what that took."""

    reply: ClassVar[type[Message]] = MemoryMeasured
    alone: ClassVar[bool] = True

    n_ctx: int

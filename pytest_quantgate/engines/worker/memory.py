"""What a model takes in memory: the process's peak, and the engine's own buffers.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_quantgate.engines.messages import (
    BufferSize,
    DeviceUse,
    MeasureMemory,
    MemoryMeasured,
    Message,
)
from pytest_quantgate.engines.messages.placement import read_placement
from pytest_quantgate.engines.worker.devices import describe_device, device_memory, devices
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.loading import low

_BUFFER = re.compile(
    r"^\s*\w+:\s+(?P<where>\S+)\s+(?P<kind>\S.*?) buffer size\s*(?:=|is|of)\s*"
    r"(?P<mib>[0-9.]+) MiB"
)
_RESERVED_ANEW = frozenset({"compute", "output"})
"""Kinds whose buffer is replaced when the engine reports it again; others add up."""


def read_buffers(lines: list[str]) -> tuple[BufferSize, ...]:
    """Read the size of each buffer from llama.cpp's log.

    Its lines are rounded to 0.01 MiB. Several of one kind at one place (a cache a kind of
    attention, say) add up; a compute buffer that was reserved again counts once, the last.
    """
    found: dict[tuple[str, str], int] = {}
    for line in lines:
        match = _BUFFER.match(line)
        if match is not None:
            key = match["kind"], match["where"]
            n_bytes = round(float(match["mib"]) * (1 << 20))
            found[key] = n_bytes + (0 if key[0] in _RESERVED_ANEW else found.get(key, 0))
    return tuple(
        BufferSize(kind=kind, where=where, n_bytes=n_bytes)
        for (kind, where), n_bytes in found.items()
    )


def peak_resident_bytes() -> int | None:
    """Return the most memory that this process has held in RAM, mapped files included.

    Linux: ``VmHWM`` of /proc, since ``ru_maxrss`` would begin with the parent's; Windows: the
    peak working set; elsewhere ``ru_maxrss``. None where none of these tells.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return _peak_working_set_bytes()
    import resource  # noqa: PLC0415 # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) or None


class _ProcessMemoryCounters(ctypes.Structure):
    """``PROCESS_MEMORY_COUNTERS`` of psapi.h."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
        ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
    )


def _peak_working_set_bytes() -> int | None:
    kernel = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 # typed only on Windows
    counters = _ProcessMemoryCounters()
    counters.cb = ctypes.sizeof(counters)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    answered = ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return int(counters.PeakWorkingSetSize) if answered else None


def measure_memory(
    request: MeasureMemory, log: LogTap, send: Callable[[Message], None]
) -> MemoryMeasured:
    """Load a model, decode a full context of random tokens, and tell what it took."""
    low.llama_backend_init()
    listed = devices()
    placed = read_placement(request.device).devices
    chosen = {name: listed[name] for name in placed if name in listed}
    free = {name: device_memory(handle)[0] for name, handle in chosen.items()}
    before = peak_resident_bytes()
    lines: list[str] = []
    began = time.perf_counter()
    log.listener = lines.append
    try:
        model = Model(request, log=log, send=send)
        n_ctx, n_batch, n_ubatch = request.n_ctx, request.n_batch, request.n_ubatch
        model.open(request, n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch)
        load_s = time.perf_counter() - began
        tokens = np.random.default_rng(0).integers(0, model.vocabulary.n_tokens, n_ctx)
        model.decode(tokens.astype(np.int32), n_ctx - 1)
    finally:
        log.listener = None
    used = []
    for name, handle in chosen.items():
        left, total = device_memory(handle)
        used.append(DeviceUse(device=name, used_bytes=max(0, free[name] - left), total_bytes=total))
    peak = peak_resident_bytes()
    model.close()
    description, driver = describe_device(request.device)
    return MemoryMeasured(
        peak_resident_bytes=peak,
        resident_before_bytes=before,
        load_s=load_s,
        buffers=read_buffers(lines),
        devices=tuple(used),
        device_description=description,
        driver=driver,
    )

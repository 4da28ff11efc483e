"""The devices that ggml lists.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import ctypes
from collections import Counter

from pytest_quantgate.engines.messages import (
    DevicesListed,
    EngineDevice,
)
from pytest_quantgate.engines.messages.placement import read_placement
from pytest_quantgate.engines.worker.host import nvidia_driver
from pytest_quantgate.engines.worker.loading import low


def devices() -> dict[str, int]:
    """Return the devices that ggml lists, each name with its handle."""
    library = low._lib
    count, get, name = (
        library.ggml_backend_dev_count,
        library.ggml_backend_dev_get,
        library.ggml_backend_dev_name,
    )
    count.restype, get.restype, name.restype = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
    get.argtypes, name.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    handles = [get(index) for index in range(count())]
    return {name(handle).decode(): handle for handle in handles}


def device_description(handle: int) -> str:
    """Return what a device calls itself."""
    describe = low._lib.ggml_backend_dev_description
    describe.restype, describe.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    return str(describe(handle).decode(errors="replace"))


def device_memory(handle: int) -> tuple[int, int]:
    """Return a device's free and total bytes, as ggml tells them."""
    ask = low._lib.ggml_backend_dev_memory
    size = ctypes.POINTER(ctypes.c_size_t)
    ask.restype, ask.argtypes = None, [ctypes.c_void_p, size, size]
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ask(handle, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def splits_rows(handle: int) -> bool:
    """Return whether a device's backend has buffers for rows that are split over devices."""
    registry_of = low._lib.ggml_backend_dev_backend_reg
    registry_of.restype, registry_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    address_of = low._lib.ggml_backend_reg_get_proc_address
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    return bool(address_of(registry_of(handle), b"ggml_backend_split_buffer_type"))


def _describe(item: tuple[str, int]) -> EngineDevice:
    name, handle = item
    free_bytes, total_bytes = device_memory(handle)
    return EngineDevice(
        name=name,
        description=device_description(handle),
        free_bytes=free_bytes,
        total_bytes=total_bytes,
        splits_rows=splits_rows(handle),
    )


def list_devices() -> DevicesListed:
    """Return what each device that ggml lists is, and how much memory it has."""
    low.llama_backend_init()
    listed = devices()
    return DevicesListed(devices=tuple(map(_describe, listed.items())))


def describe_device(device: str) -> tuple[str, str]:
    """Return what a placement's devices call themselves, and the driver's version.

    Both are empty for the processor alone. Devices of one kind are told once, with their number.
    The driver is NVIDIA's as Linux tells it; empty where there is none or on other platforms.
    """
    placement = read_placement(device)
    if placement.is_cpu:
        return "", ""
    listed = devices()
    counts = Counter(device_description(listed[name]) for name in placement.devices)
    text = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
    options = placement.to_text().partition(";")[2]
    return f"{text}; {options}" if options else text, nvidia_driver()

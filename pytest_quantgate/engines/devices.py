"""The devices of an engine: threads, kinds of device, and where a model is loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil

from pytest_quantgate.engines.messages.placement import Placement

if TYPE_CHECKING:
    from pytest_quantgate.config.machines import DeviceSettings


def default_threads() -> int:
    """Return the number of physical cores that this process may use."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        usable = os.cpu_count() or 1
    return max(1, min(physical, usable))


def device_kind(placement: Placement) -> str:
    """Return what two qualities must share of where they were computed.

    ``cpu``, or the devices' names without numbers, as ``cuda``, which a pool's pattern gives too;
    and what else changes the sums: a part of the layers, rows split over devices, weights that are
    not repacked.
    """
    parts = [name.rstrip("0123456789*").lower() for name in placement.names]
    if placement.n_gpu_layers is not None:
        parts.append(f"{placement.n_gpu_layers}-layers")
    if placement.split_mode != "layer":
        parts.append(placement.split_mode)
    if not placement.repack:
        parts.append("not-repacked")
    return "-".join(dict.fromkeys(parts))


def placement_of(device: DeviceSettings, names: tuple[str, ...] | None = None) -> Placement:
    """Return where a device's settings have a model loaded; ``names`` are a pool's members."""
    return Placement(
        names=names or device.names,
        n_gpu_layers=device.n_gpu_layers,
        split_mode=device.split_mode,
        tensor_split=device.tensor_split,
        repack=device.repack,
    )

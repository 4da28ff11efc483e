"""The machine that a speed was measured on: what it is, and what state it was in.

A :class:`Fingerprint` says which speeds may be compared as numbers; :class:`HostState` is what
the platform tells of clocks, load and heat, recorded beside a figure and never compared.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

_NAMES = {
    "cpu": "CPU",
    "build": "instruction sets and build options",
    "n_threads": "threads",
    "device": "device",
    "driver": "driver",
}


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What two speeds in tokens per second must share to be comparable.

    ``build`` is llama.cpp's line of instruction sets and build options; ``device`` is ``cpu``
    or what the GPU calls itself, and ``driver`` its driver's version where the platform tells.
    The engine's version is left out: whether an upgrade made it slower is the question.
    """

    cpu: str
    build: str
    n_threads: int
    device: str
    driver: str

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over all fields."""
        text = "\0".join(f"{name}={value}" for name, value in sorted(asdict(self).items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def is_same_machine(self, other: Fingerprint) -> bool:
        """Return whether only the build or the driver differs: then a change of speed is theirs."""
        names = ("cpu", "n_threads", "device")
        return bool(self.cpu) and all(getattr(self, x) == getattr(other, x) for x in names)

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Say what is not as on another machine, a phrase a field."""
        found = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine == theirs:
                continue
            if field.name == "build":
                mine, theirs = only_differing(mine, theirs)
            found.append(f"{_NAMES[field.name]} {mine or 'unknown'} (was {theirs or 'unknown'})")
        return tuple(found)


class OfHardware(Protocol):
    """A figure that says on which hardware it was measured."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The hardware."""


StoredT = TypeVar("StoredT", bound=OfHardware)


def of_same_machine(stored: Mapping[str, StoredT], fingerprint: Fingerprint) -> StoredT | None:
    """Return what is stored of this hardware, else of the build of this machine most like it."""
    exact = stored.get(fingerprint.digest)
    if exact is not None:
        return exact
    others = [item for item in stored.values() if fingerprint.is_same_machine(item.fingerprint)]
    return min(others, key=lambda item: _unlikeness(fingerprint, item.fingerprint), default=None)


def _unlikeness(one: Fingerprint, other: Fingerprint) -> int:
    return sum(map(len, one.differences(other)))


def only_differing(mine: str, theirs: str) -> tuple[str, str]:
    """Keep the options of a line such as ``CPU : AVX2 = 1 | FMA = 1 |`` that the other lacks."""
    options = [
        [part.strip() for part in line.replace(":", "|").split("|") if part.strip()]
        for line in (mine, theirs)
    ]
    first, second = (
        ", ".join(option for option in options[i] if option not in options[1 - i]) or "none"
        for i in (0, 1)
    )
    return first, second


@dataclass(frozen=True, kw_only=True)
class HostState:
    """The host at one moment; None is what the platform does not tell.

    ``clock_mhz`` is the mean of the cores' present clocks, ``governor`` Linux's policy for them,
    ``load_average`` the number of runnable processes over the last minute, ``temperature_c``
    the hottest sensor, ``on_battery`` whether a laptop runs on its own, ``turbo`` whether cores
    may run above their base clock, ``throttled`` how often heat has slowed a core since the start.
    """

    clock_mhz: float | None
    governor: str | None
    load_average: float | None
    temperature_c: float | None
    on_battery: bool | None
    turbo: bool | None = None
    throttled: int | None = None


def host_state() -> HostState:
    """Read what the platform tells of the host's state now."""
    return HostState(
        clock_mhz=_clock_mhz(),
        governor=_governor(),
        load_average=_load_average(),
        temperature_c=_temperature_c(),
        on_battery=_on_battery(),
        turbo=_turbo(),
        throttled=_throttled(),
    )


def _clock_mhz() -> float | None:
    try:
        clock = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        return None
    # None where there is nothing to read, whatever the types say.
    current = getattr(clock, "current", None)
    return float(current) if current else None


_CPUS = Path("/sys/devices/system/cpu")  # Linux alone has it


def _governor() -> str | None:
    return _read(_CPUS / "cpu0/cpufreq/scaling_governor")


def _turbo() -> bool | None:
    # Intel's driver tells what is off, the others what is on.
    for name, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        value = _read(_CPUS / name)
        if value is not None:
            return value == on
    return None


def _throttled() -> int | None:
    counts = [_read(path) for path in _CPUS.glob("cpu*/thermal_throttle/core_throttle_count")]
    return sum(int(count) for count in counts if count and count.isdecimal()) if counts else None


def _read(path: Path) -> str | None:
    """Return what a file of the system says, None where it is not or says nothing."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on Windows
        return None


def _temperature_c() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)  # not on macOS and Windows
    try:
        groups: Iterable[Any] = read().values() if read else ()
    except OSError:
        return None
    return max((float(item.current) for group in groups for item in group), default=None)


def _on_battery() -> bool | None:
    read = getattr(psutil, "sensors_battery", None)
    try:
        battery = read() if read else None
    except (OSError, RuntimeError):
        return None
    if battery is None or battery.power_plugged is None:
        return None
    return not battery.power_plugged


class OutsideLoad:
    """How busy other processes keep the processors that this process may use.

    Begins when it is made. Where the platform gives no times a processor, the answer is None.
    """

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = time.process_time()

    def cores(self, children_s: float) -> float | None:
        """Return the mean number of cores that others used since the beginning.

        Args:
            children_s: processor time of the processes that belong to the measurement.

        """
        elapsed_s, busy_s = time.monotonic() - self._began_s, _busy_s()
        if self._busy_s is None or busy_s is None or elapsed_s <= 0:
            return None
        own_s = time.process_time() - self._own_s + children_s
        return max(0.0, (busy_s - self._busy_s - own_s) / elapsed_s)


def _busy_s() -> float | None:
    """Return the time that the processors of this process were busy, since the host started."""
    try:
        times = psutil.cpu_times(percpu=True)
    except (OSError, NotImplementedError, RuntimeError):
        return None
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS and Windows
        usable = set(range(len(times)))
    busy = 0.0
    for number, item in enumerate(times):
        if number in usable:
            idle = item.idle + getattr(item, "iowait", 0.0)
            # Linux counts a guest's time in the user's too.
            twice = getattr(item, "guest", 0.0) + getattr(item, "guest_nice", 0.0)
            busy += sum(item) - idle - twice
    return busy

"""Who may compute on a device now, across processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_quantgate.hosts import device_locks
from pytest_quantgate.hosts.device_locks import hold_device

HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from pytest_quantgate.hosts.device_locks import hold_device
with hold_device(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(device: str) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a device until its input ends."""
    import tempfile

    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tempfile.gettempdir(), device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=30)


def test_a_device_that_is_free_is_not_waited_for() -> None:
    waits: list[float] = []
    with hold_device("free", waits.append):
        pass
    assert waits == []


def test_another_process_is_waited_for_and_a_long_wait_is_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_locks, "WAIT_TOLD_EVERY_S", 0.2)
    waits: list[float] = []
    with held_elsewhere("gpu") as process:

        def on_wait(waited_s: float) -> None:
            waits.append(waited_s)
            if len(waits) == 3:
                assert process.stdin is not None
                process.stdin.close()

        with hold_device("gpu", on_wait):
            assert process.wait(timeout=30) == 0
    assert len(waits) >= 3
    assert waits[0] < 0.2 <= waits[1] < waits[2]


def test_other_devices_are_free_meanwhile() -> None:
    began_s = time.monotonic()
    with held_elsewhere("gpu0"), hold_device("gpu1"):
        pass
    assert time.monotonic() - began_s < 30


def test_a_device_is_free_again_after_its_holder_died() -> None:
    waits: list[float] = []
    with held_elsewhere("dying") as process:
        process.kill()
        process.wait(timeout=30)
        with hold_device("dying", waits.append):
            pass
    assert len(waits) <= 1


def test_the_lock_is_the_users_and_outside_of_any_cache() -> None:
    """Two runs with caches of their own share the processor."""
    import tempfile

    with hold_device("where"):
        found = list(Path(tempfile.gettempdir()).glob("pytest-quantgate-*/device-where.lock"))
    assert len(found) == 1

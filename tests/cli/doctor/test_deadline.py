"""A deadline that holds whatever hangs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pytest_quantgate.cli.doctor.deadline import within
from pytest_quantgate.errors import CellTimeout


def test_what_is_done_in_time_is_returned_or_raised() -> None:
    assert within(10, lambda: 7) == 7

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        within(10, fail)


def test_a_process_that_hangs_is_ended_and_those_before_are_not() -> None:
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(wait) as before:
        started: list[subprocess.Popen[bytes]] = []

        def work() -> None:
            started.append(subprocess.Popen(wait))
            started[0].wait()

        began_s = time.monotonic()
        with pytest.raises(CellTimeout, match="no answer within 1 s"):
            within(1, work)
        assert time.monotonic() - began_s < 10
        assert started[0].wait(10) != 0
        assert before.poll() is None
        before.kill()

"""Archives of NumPy in several threads."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pytest_quantgate.storage.arrays import read_arrays


class _Loop:
    """An object that only the garbage collector frees, and that then runs Python code."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(200):
            pass


@pytest.fixture
def _eager_switching() -> Iterator[None]:
    """Let threads switch often, and garbage be collected where anything is made."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5, 2, 2)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_eager_switching")
def test_lanes_read_at_the_same_time() -> None:
    """Before Python 3.11.9 its parser, which NumPy uses, is not safe for threads."""
    buffer = io.BytesIO()
    np.savez(buffer, *(np.full(3, number) for number in range(20)))

    def read(_lane: int) -> None:
        for _ in range(20):
            loops = [_Loop() for _ in range(3)]
            arrays = read_arrays(io.BytesIO(buffer.getvalue()))
            del loops
            assert {name: int(values[0]) for name, values in arrays.items()} == {
                f"arr_{number}": number for number in range(20)
            }

    with ThreadPoolExecutor(6) as lanes:
        list(lanes.map(read, range(6)))

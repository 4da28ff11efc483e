"""Arrays from outside: archives of NumPy, read by one thread at a time, and what engines send."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pytest_quantgate.errors import CellCrashed

_ONE_READER = threading.Lock()
"""NumPy parses headers with ``ast``, which before Python 3.11.9 raises SystemError at random where
two threads do so at once (https://github.com/python/cpython/issues/106905)."""


def read_arrays(file: Path | IO[bytes]) -> dict[str, np.ndarray]:
    """Return all arrays of an ``.npz``, by name.

    Raises:
        Exception: whatever NumPy raises of a file that is damaged.

    """
    with _ONE_READER, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def array_of(data: bytes, dtype: npt.DTypeLike, *shape: int) -> npt.NDArray[Any]:
    """Return the array that an engine sent as bytes; one length of the shape may be −1.

    Raises:
        CellCrashed: the bytes are of another number.

    """
    try:
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    except ValueError:
        lengths = " x ".join("any" if length < 0 else str(length) for length in shape)
        raise CellCrashed(
            f"the engine sent {len(data)} bytes as {np.dtype(dtype).name} of shape {lengths}"
        ) from None

"""Archives of NumPy, read by one thread at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import IO

import numpy as np

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

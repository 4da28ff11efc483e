"""The output matrix of a model's file, times hidden states: on the processor and on a device.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from pytest_quantgate.engines.messages import MatrixPlace
from pytest_quantgate.engines.worker.devices import devices
from pytest_quantgate.engines.worker.loading import library_folder
from pytest_quantgate.engines.worker.native_kernels import Product, load_base
from pytest_quantgate.engines.worker.threads import Threads

_BLOCK_BYTES = 128 << 20  # float32 logits that are worked on at once
_SLICE_BYTES = 64 << 20  # of the output matrix in float32
_KEPT_BYTES = 512 << 20  # an output matrix of no more float32 bytes is converted once
_CONVERTED_ROWS = 64  # by one thread at once
_F32, _F16, _BF16 = 0, 1, 30


class Matrix(Protocol):
    """An output matrix."""

    rows_at_once: int

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Return float32 logits of float16 hidden states, valid until the next call."""


class OutputMatrix:
    """The output matrix of the reference's file, float32 of shape (n_vocab, n_embd) in slices.

    Args:
        place: where it is.
        threads: convert it; the product itself is BLAS's, with threads of its own.

    """

    def __init__(self, place: MatrixPlace, threads: Threads) -> None:
        self._data = map_matrix(place)
        self._is_bf16 = place.tensor_type == _BF16
        self.rows_at_once = rows_at_once(place.n_vocab)
        self._threads = threads
        self._slice = max(1, _SLICE_BYTES // (4 * place.n_embd))
        self._is_whole = 4 * self._data.size <= _KEPT_BYTES
        self._weights: np.ndarray | None = None
        self._logits: np.ndarray | None = None

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Return float32 logits of float16 hidden states (n, n_embd), valid until the next call.

        At most ``rows_at_once`` rows.
        """
        states = hidden.astype(np.float32)
        n_vocab, n_embd = self._data.shape
        if self._logits is None or len(self._logits) < len(states):
            self._logits = np.empty((len(states), n_vocab), dtype=np.float32)
        out = self._logits[: len(states)]
        is_converted = self._is_whole and self._weights is not None
        if self._weights is None:
            n_kept = n_vocab if self._is_whole else min(self._slice, n_vocab)
            self._weights = np.empty((n_kept, n_embd), dtype=np.float32)
        for start in range(0, n_vocab, self._slice):
            stop = min(start + self._slice, n_vocab)
            at = start if self._is_whole else 0
            weights = self._weights[at : at + stop - start]
            if not is_converted:
                self._convert(self._data[start:stop], weights)
            np.matmul(states, weights.T, out=out[:, start:stop])
        return out

    def _convert(self, stored: np.ndarray, weights: np.ndarray) -> None:
        def convert(start: int) -> None:
            rows = slice(start, start + _CONVERTED_ROWS)
            if self._is_bf16:
                np.left_shift(stored[rows], 16, out=weights[rows].view(np.uint32), dtype=np.uint32)
            else:
                weights[rows] = stored[rows]

        self._threads.each(convert, range(0, len(stored), _CONVERTED_ROWS))


class DeviceMatrix:
    """The output matrix on a device, which multiplies with the kernel that decoding took.

    Args:
        place: where it is.
        device: the device's name.
        rows_at_once: how many rows decoding multiplied; with another number the kernel may differ.

    Raises:
        NotOnDeviceError: the device has no room for it.
        ValueError: the matrix is of a type that is not kept exactly.

    """

    def __init__(self, place: MatrixPlace, device: str, rows_at_once: int) -> None:
        self.rows_at_once = rows_at_once
        self._hidden = np.zeros((rows_at_once, place.n_embd), dtype=np.float32)
        self._logits = np.empty((rows_at_once, place.n_vocab), dtype=np.float32)
        self._product = Product(
            load_base(library_folder()),
            devices()[device],
            place.tensor_type,
            map_matrix(place),
            n_columns=place.n_embd,
            n_rows=rows_at_once,
        )

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Return float32 logits of float16 hidden states (n, n_embd), valid until the next call."""
        self._hidden[: len(hidden)] = hidden
        return self._product(self._hidden, self._logits)[: len(hidden)]

    def close(self) -> None:
        """Free the device's memory."""
        self._product.close()


def rows_at_once(n_vocab: int) -> int:
    """Return how many rows of logits are worked on at once, so that memory stays bounded."""
    return max(1, _BLOCK_BYTES // (4 * n_vocab))


def map_matrix(place: MatrixPlace) -> np.ndarray:
    """Map a matrix as it is stored, of shape (n_vocab, n_embd).

    Raises:
        ValueError: it is quantized, so that its values are not kept exactly.

    """
    dtypes: dict[int, Any] = {_F32: np.float32, _F16: np.float16, _BF16: np.uint16}
    dtype = dtypes.get(place.tensor_type)
    if dtype is None:
        raise ValueError(f"an output matrix of ggml type {place.tensor_type} is not kept exactly")
    shape = (place.n_vocab, place.n_embd)
    return np.memmap(place.path, dtype=dtype, mode="r", offset=place.offset_bytes, shape=shape)

"""The reference's distribution, kept small: final hidden states, and the output matrix.

llama.cpp's own base file stores every logit in 16 bits. The final hidden state of a token (the
graph's node ``result_norm``) times the output matrix gives the logits back, so a token costs
``2 · n_embd`` bytes instead of ``2 · n_vocab``, and the matrix is read from the reference's own
file. Where an architecture changes the logits after that product (a soft cap, a bias, a scale)
the check on the first chunk shows it, and logits are stored instead.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.engines.messages import MatrixPlace
from pytest_quantgate.engines.worker.errors import KeptDamaged
from pytest_quantgate.engines.worker.graph import Nodes
from pytest_quantgate.engines.worker.rows import divergence
from pytest_quantgate.engines.worker.threads import Threads

HIDDEN_NODE = "result_norm"

FLOOR_LIMIT_NATS = 1e-6
"""Mean divergence of the reference from itself through the cache above which logits are kept."""

_BLOCK_BYTES = 128 << 20  # float32 logits that are worked on at once
_SLICE_BYTES = 64 << 20  # of the output matrix in float32
_KEPT_BYTES = 512 << 20  # an output matrix of no more float32 bytes is converted once
_CONVERTED_ROWS = 64  # by one thread at once
_F32, _F16, _BF16 = 0, 1, 30


class HiddenReader:
    """Collects the rows of ``result_norm`` of each decode through the graph's callback."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._rows: list[np.ndarray] = []

    def wants(self, name: str) -> bool:
        """Return whether a node of this name is read."""
        return name == HIDDEN_NODE

    def read(self, _name: str, node: int) -> None:
        """Read a node; a physical batch without a scored token has an empty one."""
        rows = self._nodes.rows(node, np.float32)
        if len(rows):
            self._rows.append(rows)

    def take(self) -> np.ndarray | None:
        """Return the rows since the last call, float32 of shape (n, n_embd); None for none."""
        rows, self._rows = self._rows, []
        return np.concatenate(rows) if rows else None


class OutputMatrix:
    """The output matrix of the reference's file, float32 of shape (n_vocab, n_embd) in slices.

    Args:
        place: where it is.
        threads: convert it; the product itself is BLAS's, with threads of its own.

    """

    def __init__(self, place: MatrixPlace, threads: Threads) -> None:
        tensor_type, shape = place.tensor_type, (place.n_vocab, place.n_embd)
        dtype = {_F32: np.float32, _F16: np.float16, _BF16: np.uint16}.get(tensor_type)
        if dtype is None:
            raise ValueError(f"an output matrix of ggml type {tensor_type} is not kept exactly")
        self._is_bf16 = tensor_type == _BF16
        self._data = np.memmap(
            place.path, dtype=dtype, mode="r", offset=place.offset_bytes, shape=shape
        )
        self._threads = threads
        self._slice = max(1, _SLICE_BYTES // (4 * place.n_embd))
        self._is_whole = 4 * self._data.size <= _KEPT_BYTES
        self._weights: np.ndarray | None = None
        self._logits: np.ndarray | None = None

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Return float32 logits of float16 hidden states (n, n_embd), valid until the next call.

        At most :func:`rows_at_once` rows.
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


def rows_at_once(n_vocab: int) -> int:
    """Return how many rows of logits are worked on at once, so that memory stays bounded."""
    return max(1, _BLOCK_BYTES // (4 * n_vocab))


class ReferenceStore:
    """A folder of hidden states (or logits), a file a chunk, and what was found at the first.

    Args:
        folder: where the chunks are.
        matrix: where the reference's output matrix is.
        threads: do the work.

    """

    def __init__(self, folder: str, matrix: MatrixPlace, threads: Threads) -> None:
        self._threads = threads
        self._folder = Path(folder)
        self._facts_path = self._folder / "facts.json"
        self._matrix: OutputMatrix | None = None
        self._location = matrix

    def is_of(self, folder: str, matrix: MatrixPlace) -> bool:
        """Return whether this is that folder with that matrix."""
        return (str(self._folder), self._location) == (str(Path(folder)), matrix)

    def facts(self) -> dict[str, Any] | None:
        """Return ``mode`` and ``floor_nats``, None before the first chunk."""
        try:
            facts: dict[str, Any] = json.loads(self._facts_path.read_bytes())
        except (OSError, ValueError):
            return None
        return facts

    def write(self, index: int, hidden: np.ndarray | None, logits: np.ndarray) -> None:
        """Keep a chunk's scored rows; at the first one, find out whether hidden states do.

        Args:
            index: the chunk's place in the text.
            hidden: float32 of shape (n, n_embd), None where the graph has no such node.
            logits: float32 of shape (n, n_vocab), the real ones.

        """
        facts = self.facts()
        if facts is None:
            floor = self._floor(hidden, logits)
            usable = floor is not None and floor <= FLOOR_LIMIT_NATS
            facts = {"mode": "hidden" if usable else "logits", "floor_nats": floor if usable else 0}
            self._save(self._facts_path, json.dumps(facts).encode())
        if facts["mode"] == "hidden" and hidden is not None:
            self._save_array(index, hidden.astype(np.float16))
        else:
            self._save_array(index, logits)

    def divergence(self, index: int, logits: np.ndarray, normalizer: np.ndarray) -> np.ndarray:
        """Return the divergence of a chunk's rows from the reference's, float64 of shape (n,).

        Args:
            index: the chunk's place in the text.
            logits: float32 of shape (n, n_vocab).
            normalizer: float64 of shape (n,), from the scores of these rows.

        """
        kept = load_array(self._folder / f"chunk-{index}.npy")
        kld = np.empty(len(logits), dtype=np.float64)
        step = rows_at_once(logits.shape[1])
        for start in range(0, len(logits), step):
            rows = slice(start, min(start + step, len(logits)))
            base = np.asarray(kept[rows])
            if base.dtype != np.float32:
                base = self._output_matrix().logits(base)
            kld[rows] = divergence(base, logits[rows], normalizer[rows], self._threads)
        return kld

    def _output_matrix(self) -> OutputMatrix:
        if self._matrix is None:
            self._matrix = OutputMatrix(self._location, self._threads)
        return self._matrix

    def _floor(self, hidden: np.ndarray | None, logits: np.ndarray) -> float | None:
        if hidden is None or len(hidden) != len(logits):
            return None
        kept = hidden.astype(np.float16)
        total = 0.0
        step = rows_at_once(logits.shape[1])
        try:
            for start in range(0, len(logits), step):
                rows = slice(start, start + step)
                again = self._output_matrix().logits(kept[rows])
                kld = divergence(logits[rows], again, threads=self._threads)
                total += float(np.abs(kld).sum())
        except ValueError:
            return None
        return total / len(logits)

    def _save_array(self, index: int, array: np.ndarray) -> None:
        save_array(self._folder / f"chunk-{index}.npy", array)

    def _save(self, path: Path, data: bytes) -> None:
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(path)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array and its checksum beside its place and rename it."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    whole = np.ascontiguousarray(array)
    with partial.open("wb") as stream:
        np.save(stream, whole, allow_pickle=False)
        stream.write(_checksum(whole))
    partial.replace(path)


def load_array(path: Path) -> np.ndarray:
    """Map an array that was saved with its checksum.

    Raises:
        KeptDamaged: it is not what was written.

    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as stream:
            stream.seek(-_CHECKSUM_BYTES, os.SEEK_END)
            stored = stream.read()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path) from error
    if stored != _checksum(array):
        raise _damaged(path)
    return np.asarray(array)


_CHECKSUM_BYTES = 4


def _checksum(array: np.ndarray) -> bytes:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data).to_bytes(_CHECKSUM_BYTES, "little")


def _damaged(path: Path) -> KeptDamaged:
    return KeptDamaged(
        f"the reference's values in {path} are not what was written; delete {path.parent} to have"
        " them measured again"
    )

"""The reference's distribution, kept small: final hidden states, and the output matrix.

llama.cpp's own base file stores every logit in 16 bits. The final hidden state of a token (the
graph's node ``result_norm``) times the output matrix gives the logits back, so a token costs
``2 · n_embd`` bytes instead of ``2 · n_vocab``, and the matrix is read from the reference's own
file. What was decoded on a GPU is multiplied there too: its kernel rounds on the way, to 16 bits
in a CUDA build, and only the same kernel gives the same logits. Where an architecture changes the
logits after that product (a soft cap, a bias, a scale) the check on the first chunk shows it, and
logits are stored instead.

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
from pytest_quantgate.engines.worker.native_kernels import NotOnDeviceError
from pytest_quantgate.engines.worker.output_matrix import DeviceMatrix, Matrix, OutputMatrix
from pytest_quantgate.engines.worker.rows import divergence
from pytest_quantgate.engines.worker.threads import Threads

HIDDEN_NODE = "result_norm"

FLOOR_LIMIT_NATS = 1e-6
"""Mean divergence of the reference from itself through the cache above which logits are kept."""


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


class ReferenceStore:
    """A folder of hidden states (or logits), a file a chunk, and what was found at the first.

    Args:
        folder: where the chunks are.
        matrix: where the reference's output matrix is.
        threads: do the work.
        device: the GPU that holds the output matrix in decoding; "" is the processor.

    """

    def __init__(
        self, folder: str, matrix: MatrixPlace, threads: Threads, device: str = ""
    ) -> None:
        self._threads = threads
        self._device = device
        self._folder = Path(folder)
        self._facts_path = self._folder / "facts.json"
        self._matrices: dict[str, Matrix] = {}
        self._location = matrix

    def is_of(self, folder: str, matrix: MatrixPlace, device: str) -> bool:
        """Return whether this is that folder with that matrix on that device."""
        own = str(self._folder), self._location, self._device
        return own == (str(Path(folder)), matrix, device)

    def close(self) -> None:
        """Free what a device holds of the matrix."""
        for matrix in self._matrices.values():
            if isinstance(matrix, DeviceMatrix):
                matrix.close()
        self._matrices = {}

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
            facts = self._examine(hidden, logits)
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
        if kept.dtype == np.float32:
            return divergence(kept, logits, normalizer, self._threads)
        facts = self.facts() or {}
        matrix = self._matrix(facts.get("device", ""), len(logits))
        kld = np.empty(len(logits), dtype=np.float64)
        for start in range(0, len(logits), matrix.rows_at_once):
            rows = slice(start, min(start + matrix.rows_at_once, len(logits)))
            base = matrix.logits(kept[rows])
            kld[rows] = divergence(base, logits[rows], normalizer[rows], self._threads)
        return kld

    def _matrix(self, device: str, n_rows: int) -> Matrix:
        """Return the matrix on a device, "" for the processor.

        Raises:
            NotOnDeviceError, ValueError: as :class:`DeviceMatrix` and :class:`OutputMatrix`.

        """
        if device not in self._matrices:
            # Decoding multiplies the last token too, whose successor is in no chunk.
            self._matrices[device] = (
                DeviceMatrix(self._location, device, n_rows + 1)
                if device
                else OutputMatrix(self._location, self._threads)
            )
        return self._matrices[device]

    def _examine(self, hidden: np.ndarray | None, logits: np.ndarray) -> dict[str, Any]:
        """Find out what gives the logits back: hidden states on the device, or here, or nothing."""
        for device in dict.fromkeys((self._device, "")):
            floor = self._floor(hidden, logits, device)
            if floor is not None and floor <= FLOOR_LIMIT_NATS:
                return {"mode": "hidden", "floor_nats": floor, "device": device}
        return {"mode": "logits", "floor_nats": 0, "device": ""}

    def _floor(self, hidden: np.ndarray | None, logits: np.ndarray, device: str) -> float | None:
        if hidden is None or len(hidden) != len(logits):
            return None
        kept = hidden.astype(np.float16)
        total = 0.0
        try:
            matrix = self._matrix(device, len(logits))
            for start in range(0, len(logits), matrix.rows_at_once):
                rows = slice(start, start + matrix.rows_at_once)
                kld = divergence(logits[rows], matrix.logits(kept[rows]), threads=self._threads)
                total += float(np.abs(kld).sum())
        except (NotOnDeviceError, ValueError):
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

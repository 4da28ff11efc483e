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
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.engines.worker.graph import Nodes
from pytest_quantgate.engines.worker.rows import divergence

HIDDEN_NODE = "result_norm"

FLOOR_LIMIT_NATS = 1e-6
"""Mean divergence of the reference from itself through the cache above which logits are kept."""

_BLOCK_BYTES = 64 << 20  # float32 logits that are worked on at once
_KEPT_BYTES = 128 << 20  # an output matrix of no more float32 bytes is converted once
_F32, _F16, _BF16 = 0, 1, 30


class HiddenReader:
    """Collects the rows of ``result_norm`` of each decode through the graph's callback."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._rows: list[np.ndarray] = []

    def wants(self, name: str) -> bool:
        """Tell whether a node of this name is read."""
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
    """The output matrix of the reference's file, float32 of shape (n_vocab, n_embd) in slices."""

    def __init__(self, path: str, offset: int, tensor_type: int, n_vocab: int, n_embd: int) -> None:
        dtype = {_F32: np.float32, _F16: np.float16, _BF16: np.uint16}.get(tensor_type)
        if dtype is None:
            raise ValueError(f"an output matrix of ggml type {tensor_type} is not kept exactly")
        self._is_bf16 = tensor_type == _BF16
        self._data = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(n_vocab, n_embd))
        self._slice = max(1, _BLOCK_BYTES // (4 * n_embd))
        self._keeps = 4 * self._data.size <= _KEPT_BYTES
        self._kept: dict[int, np.ndarray] = {}

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Return float32 logits of shape (n, n_vocab) of float16 hidden states (n, n_embd)."""
        states = hidden.astype(np.float32)
        out = np.empty((len(states), len(self._data)), dtype=np.float32)
        for start in range(0, len(self._data), self._slice):
            weights = self._weights(start)
            np.matmul(states, weights.T, out=out[:, start : start + len(weights)])
        return out

    def _weights(self, start: int) -> np.ndarray:
        """Return the slice of rows that begins at ``start``, float32."""
        kept = self._kept.get(start)
        if kept is not None:
            return kept
        part = self._data[start : start + self._slice]
        if self._is_bf16:
            weights = (part.astype(np.uint32) << 16).view(np.float32)
        else:
            weights = part.astype(np.float32)
        if self._keeps:
            self._kept[start] = weights
        return weights


def rows_at_once(n_vocab: int) -> int:
    """Return how many rows of logits are worked on at once, so that memory stays bounded."""
    return max(1, _BLOCK_BYTES // (4 * n_vocab))


class ReferenceStore:
    """A folder of hidden states (or logits), a file a chunk, and what was found at the first.

    Args:
        folder: where the chunks are.
        matrix: ``(path, offset, ggml type, n_vocab, n_embd)`` of the reference's output matrix.

    """

    def __init__(self, folder: str, matrix: tuple[str, int, int, int, int]) -> None:
        self._folder = Path(folder)
        self._facts_path = self._folder / "facts.json"
        self._matrix: OutputMatrix | None = None
        self._location = matrix

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

    def logits(self, index: int, start: int, stop: int) -> np.ndarray:
        """Return the reference's float32 logits of some rows of a chunk."""
        kept = np.load(self._folder / f"chunk-{index}.npy", mmap_mode="r", allow_pickle=False)
        rows: np.ndarray = np.asarray(kept[start:stop])
        if rows.dtype != np.float32:
            rows = self._output_matrix().logits(rows)
        return rows

    def _output_matrix(self) -> OutputMatrix:
        if self._matrix is None:
            self._matrix = OutputMatrix(*self._location)
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
                total += float(np.abs(divergence(logits[rows], again)).sum())
        except ValueError:
            return None
        return total / len(logits)

    def _save_array(self, index: int, array: np.ndarray) -> None:
        path = self._folder / f"chunk-{index}.npy"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        partial.replace(path)

    def _save(self, path: Path, data: bytes) -> None:
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(path)

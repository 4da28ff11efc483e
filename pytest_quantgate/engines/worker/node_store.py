"""The values of a graph's nodes in a folder: written by one side, read by the other.

A node is known by its name, its operation, and which one of these it is in a graph. What one side
computed in one batch the other may have computed in several: its tokens are cut out and put
together along the axis that counts them.

Runs in the worker alone: standard library and numpy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NodeId = tuple[str, str, int]
"""A node's name, its operation, and its number among those of that name and operation."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tokens that are decoded together: the first one's position, and how many."""

    start: int
    count: int

    @property
    def end(self) -> int:
        """The position behind the last one."""
        return self.start + self.count


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How large the values of a node are, RMS: of the whole, of each row, of each column.

    ``rows`` has the node's shape less the row length, ``columns`` the row length.
    """

    whole: float
    rows: np.ndarray
    columns: np.ndarray


def measure_spread(values: np.ndarray) -> Spread:
    """Return how large values are; those of a node of indices count as 0 and 1."""
    squares = np.square(values, dtype=np.float64)
    return Spread(
        whole=float(np.sqrt(squares.mean())),
        rows=np.sqrt(squares.mean(axis=-1)),
        columns=np.sqrt(squares.reshape(-1, values.shape[-1]).mean(axis=0)),
    )


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A node of the recorded side: its values, and what two kinds of noise move them by.

    ``floats`` is noise in each input of the relative size of F16's rounding, ``blocks`` that of
    rounding each block of an input to 8 bits.
    """

    values: np.ndarray
    floats: Spread
    blocks: Spread


class NodeStore:
    """A folder of nodes.

    Args:
        folder: is written to, or was.
        facts: what stands beside the nodes: the batches, and each node's source types.

    """

    def __init__(self, folder: str, facts: dict[str, Any] | None = None) -> None:
        self._folder = Path(folder)
        self._facts = facts if facts is not None else {"numbers": {}, "types": {}, "run": {}}
        self._loaded: dict[tuple[str, Batch], Recorded] = {}

    @classmethod
    def read(cls, folder: str) -> NodeStore:
        """Open a folder that :meth:`finish` has completed."""
        facts = json.loads((Path(folder) / "nodes.json").read_text(encoding="utf-8"))
        return cls(folder, facts)

    def finish(self, **run: int) -> None:
        """Write what stands beside the nodes: how many tokens were decoded, and the like."""
        self._facts["run"] = run
        text = json.dumps(self._facts, sort_keys=True)
        (self._folder / "nodes.json").write_text(text, encoding="utf-8")

    def run(self, name: str) -> int:
        """Return a number that :meth:`finish` was given."""
        return int(self._facts["run"][name])

    @property
    def n_nodes(self) -> int:
        """How many nodes there are, those of several batches counted once."""
        return len(self._facts["types"])

    def write(self, node: NodeId, batch: Batch, values: np.ndarray, types: tuple[int, ...]) -> None:
        """Keep a node's values in a batch, and the types of its sources."""
        name = json.dumps(node)
        self._facts["types"].setdefault(name, types)
        places = self._facts["numbers"].setdefault(name, [])
        number = places[0][2] if places else len(self._facts["types"])
        places.append([batch.start, batch.count, number])
        np.save(self._path(name, batch, "values"), values, allow_pickle=False)

    def write_noise(self, node: NodeId, batch: Batch, kind: str, spread: Spread) -> None:
        """Keep what one kind of noise moves a node by."""
        path = self._path(json.dumps(node), batch, kind)
        np.savez(path, whole=spread.whole, rows=spread.rows, columns=spread.columns)

    def values(self, node: NodeId, batch: Batch) -> np.ndarray:
        """Return a node's values as they were written."""
        kept: np.ndarray = np.load(self._path(json.dumps(node), batch, "values"))
        return kept

    def types(self, node: NodeId) -> tuple[int, ...]:
        """Return the types of a node's sources."""
        return tuple(self._facts["types"].get(json.dumps(node), ()))

    def find(self, node: NodeId, batch: Batch, shape: tuple[int, ...]) -> Recorded | None:
        """Return a node as it was recorded for these tokens, None where it was not in this shape.

        Args:
            node: which node.
            batch: the tokens.
            shape: what it must have, in numpy's order.

        """
        name = json.dumps(node)
        kept = [
            (Batch(start=start, count=count), self._load(name, Batch(start=start, count=count)))
            for start, count, _ in self._facts["numbers"].get(name, ())
            if start < batch.end and batch.start < start + count
        ]
        if not kept:
            return None
        if kept[0][0] == batch:
            return kept[0][1] if kept[0][1].values.shape == shape else None
        axis = _token_axis(kept[0][1].values.shape, kept[0][0].count, shape, batch.count)
        if axis is None or sum(item.values.shape[axis] for _, item in kept) < batch.count:
            return None
        return _cut(kept, batch, axis)

    def _load(self, name: str, batch: Batch) -> Recorded:
        """Return a recorded node; the values stay on disk, of which a batch takes its own."""
        if (name, batch) in self._loaded:
            return self._loaded[name, batch]
        noise = {}
        for kind in ("floats", "blocks"):
            with np.load(self._path(name, batch, kind)) as kept:
                noise[kind] = Spread(
                    whole=float(kept["whole"]), rows=kept["rows"], columns=kept["columns"]
                )
        values = np.load(self._path(name, batch, "values"), mmap_mode="r")
        self._loaded[name, batch] = Recorded(values=values, **noise)
        return self._loaded[name, batch]

    def _path(self, name: str, batch: Batch, kind: str) -> Path:
        number = next(
            number
            for start, count, number in self._facts["numbers"][name]
            if (start, count) == (batch.start, batch.count)
        )
        ending = "npy" if kind == "values" else "npz"
        return self._folder / f"{number}-{batch.start}-{kind}.{ending}"


def _token_axis(
    recorded: tuple[int, ...], n_recorded: int, shape: tuple[int, ...], n_tokens: int
) -> int | None:
    """Return the axis that counts tokens: the one in which two batches' shapes differ."""
    if len(recorded) != len(shape):
        return None
    differing = [axis for axis in range(len(shape)) if recorded[axis] != shape[axis]]
    if len(differing) != 1 or differing[0] == len(shape) - 1:
        return None
    axis = differing[0]
    return axis if (recorded[axis], shape[axis]) == (n_recorded, n_tokens) else None


def _cut(kept: list[tuple[Batch, Recorded]], batch: Batch, axis: int) -> Recorded:
    """Put the tokens of a batch together from the batches that they were recorded in."""

    def tokens(arrays: list[np.ndarray]) -> np.ndarray:
        slices = []
        for (own, _), array in zip(kept, arrays, strict=True):
            first, last = max(batch.start - own.start, 0), min(batch.end, own.end) - own.start
            slices.append(array[(slice(None),) * axis + (slice(first, last),)])
        return np.concatenate(slices, axis=axis)

    def spread(parts: list[Spread]) -> Spread:
        return Spread(
            whole=float(np.sqrt(np.mean([part.whole**2 for part in parts]))),
            rows=tokens([part.rows for part in parts]),
            columns=np.sqrt(np.mean([part.columns**2 for part in parts], axis=0)),
        )

    return Recorded(
        values=tokens([item.values for _, item in kept]),
        floats=spread([item.floats for _, item in kept]),
        blocks=spread([item.blocks for _, item in kept]),
    )

"""Where two computations first differ: each node of the graph, computed from equal inputs.

One side's nodes are recorded. The other side computes the same tokens, and after each node that
was compared its values are replaced with the recorded ones, so that every operation gets equal
inputs and shows its own error alone, however deep it stands. What rounding explains is measured at
each node too: the recorded side computes twice more, with noise of the size of rounding put upon
every node in the same way.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.engines.messages import (
    CompareNodes,
    Message,
    NodesCompared,
    NodesRecorded,
    Progress,
    RecordNodes,
)
from pytest_quantgate.engines.worker.graph import F32, I32, StructuredNodes, Watch
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.node_errors import NodeErrors
from pytest_quantgate.engines.worker.node_store import Batch, NodeId, NodeStore, measure_spread
from pytest_quantgate.engines.worker.rows import divergence
from pytest_quantgate.engines.worker.scoring import chunk_tokens, read_text

Send = Callable[[Message], None]
Visit = Callable[[NodeId, Batch, int], "np.ndarray | None"]
"""Given a node, the tokens and its address: the values that it is to take, or None for its own."""

F16_STEP = 2.0**-11
"""The largest relative error of rounding to F16; noise is even up to it in both directions."""

_MOVES_DATA = frozenset({"NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE", "SET_ROWS", "CPY"})
"""What computes nothing, or writes into the memory of keys and values."""


_NO_NAME = re.compile(r"node_\d+")
"""What llama.cpp calls a node that it gave no name, by its place in the whole graph."""


class _Tracer:
    """Decodes tokens batch by batch and visits the nodes of those in the window."""

    def __init__(self, model: Model, request: RecordNodes | CompareNodes) -> None:
        self._nodes = StructuredNodes()
        self._model = model
        self._request = request
        tokens = model.vocabulary.tokenize(read_text(request.text))
        self.tokens = chunk_tokens(tokens, request.chunk, request.n_ctx, model.vocabulary)
        self._visit: Visit | None = None
        self._batch = Batch(start=0, count=0)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._strangers: set[int] = set()
        self.watch = Watch(self._wants, self._take)

    @property
    def nodes(self) -> StructuredNodes:
        """What reads a node's facts."""
        return self._nodes

    def run(self, n_tokens: int, n_window: int, visit: Visit | None) -> np.ndarray:
        """Decode, visit each node of the window, and return the window's logits."""
        logits = []
        for batch in batches(n_tokens, n_window, self._request.n_ubatch):
            in_window = batch.start >= n_tokens - n_window
            self._visit, self._batch = (visit if in_window else None), batch
            self._counts.clear()
            self._strangers.clear()
            if batch.start == 0:
                self._model.forget()
            ids = self.tokens[batch.start : batch.end]
            rows = self._model.decode_batch(ids, batch.start, 0 if in_window else n_tokens)
            self.watch.check()
            if in_window:
                logits.append(rows.copy())
        return np.concatenate(logits)

    def mark_stranger(self, node: int) -> None:
        """Remember that a node has no counterpart, so that it keeps its own values."""
        self._strangers.add(node)

    def follows_stranger(self, node: int) -> bool:
        """Return whether a source of a node has no counterpart, perhaps seen through views."""
        return not self._strangers.isdisjoint(self._nodes.sources(node))

    def _wants(self, node: int) -> bool:
        if self._visit is None:
            return False
        if self._nodes.operation(node) in _MOVES_DATA:
            if self.follows_stranger(node):
                self.mark_stranger(node)
            return False
        return self._nodes.type(node) in (F32, I32) and 0 not in self._nodes.shape(node)

    def _take(self, node: int) -> None:
        assert self._visit is not None
        name, operation = self._name(node), self._nodes.operation(node)
        number = self._counts[name, operation]
        self._counts[name, operation] += 1
        values = self._visit((name, operation, number), self._batch, node)
        if values is not None and self._nodes.is_contiguous(node):
            self._nodes.write(node, values)

    def _name(self, node: int) -> str:
        """Return a node's name; one without is known by the first of its sources that has one."""
        name = self._nodes.name(node)
        if not _NO_NAME.match(name):
            return name
        sources = map(self._nodes.name, self._nodes.sources(node))
        first = next((source for source in sources if not _NO_NAME.match(source)), "")
        return f"of {first.partition(' (')[0]}" if first else "without a name"


def batches(n_tokens: int, n_window: int, n_ubatch: int) -> Iterator[Batch]:
    """Return how tokens are decoded: the last ``n_window`` begin a batch of their own."""
    for start, end in ((0, n_tokens - n_window), (n_tokens - n_window, n_tokens)):
        for first in range(start, end, n_ubatch):
            yield Batch(start=first, count=min(n_ubatch, end - first))


def _open(model: Model, request: RecordNodes | CompareNodes, callback: Any = None) -> None:
    model.open(
        request,
        n_ctx=request.n_ctx,
        n_batch=request.n_ubatch,
        n_ubatch=request.n_ubatch,
        graph_callback=callback,
    )


def record_nodes(request: RecordNodes, log: LogTap, send: Send) -> NodesRecorded:
    """Write the nodes of the window, and what noise of the size of rounding moves them by."""
    store = NodeStore(request.folder)
    n_tokens, n_window = request.n_tokens, request.n_window
    with Model(request, log=log, send=send) as model:
        tracer = _Tracer(model, request)
        nodes = tracer.nodes
        _open(model, request)
        logits = tracer.run(n_tokens, n_window, None)
        np.save(Path(request.folder) / "logits.npy", logits, allow_pickle=False)
        send(Progress(what="nodes", done=1, total=4))

        def record(node: NodeId, batch: Batch, address: int) -> None:
            types = tuple(nodes.type(source) for source in nodes.sources(address))
            store.write(node, batch, nodes.array(address), types)

        _open(model, request, tracer.watch.callback)
        by_node = tracer.run(n_tokens, n_window, record)
        np.save(Path(request.folder) / "logits-by-node.npy", by_node, allow_pickle=False)
        send(Progress(what="nodes", done=2, total=4))
        for number, (kind, add_noise) in enumerate(_NOISE.items()):
            random = np.random.default_rng(number)

            def disturb(
                node: NodeId, batch: Batch, address: int, kind: str = kind,
                add_noise: Any = add_noise, random: np.random.Generator = random,
            ) -> np.ndarray:  # fmt: skip
                values = store.values(node, batch)
                moved = difference(values, nodes.array(address))
                store.write_noise(node, batch, kind, measure_spread(moved))
                noisy: np.ndarray = add_noise(values, random)
                return noisy

            tracer.run(n_tokens, n_window, disturb)
            send(Progress(what="nodes", done=3 + number, total=4))
    store.finish(decoded=n_tokens, window=n_window, type_k=request.type_k, type_v=request.type_v)
    return NodesRecorded(n_nodes=store.n_nodes)


def compare_nodes(request: CompareNodes, log: LogTap, send: Send) -> NodesCompared:
    """Compare each node of the window with the recorded one, which then takes its place."""
    store = NodeStore.read(request.folder)
    n_tokens, n_window = store.run("decoded"), store.run("window")
    recorded, recorded_by_node = (
        np.load(Path(request.folder) / f"{name}.npy") for name in ("logits", "logits-by-node")
    )
    alone: set[NodeId] = set()
    with Model(request, log=log, send=send) as model:
        tracer = _Tracer(model, request)
        nodes = tracer.nodes
        cache_types = (
            (request.type_k, request.type_v), (store.run("type_k"), store.run("type_v"))
        )  # fmt: skip
        errors = NodeErrors(nodes, frozenset(request.changed_tensors), cache_types, n_tokens)
        _open(model, request)
        free = divergence(recorded, tracer.run(n_tokens, n_window, None))
        send(Progress(what="nodes", done=1, total=3))

        def watch_only(_node: NodeId, _batch: Batch, _address: int) -> None:
            return None

        def compare(node: NodeId, batch: Batch, address: int) -> np.ndarray | None:
            values = nodes.array(address)
            expected = store.find(node, batch, values.shape)
            if expected is None:
                alone.add(node)
                tracer.mark_stranger(address)
                return None
            moved = difference(expected.values, values)
            follows = tracer.follows_stranger(address)
            errors.add(node, address, expected, moved, store.types(node), follows=follows)
            return expected.values

        _open(model, request, tracer.watch.callback)
        by_node = divergence(recorded_by_node, tracer.run(n_tokens, n_window, watch_only))
        send(Progress(what="nodes", done=2, total=3))
        tracer.run(n_tokens, n_window, compare)
        send(Progress(what="nodes", done=3, total=3))
    return NodesCompared(
        nodes=errors.rows(),
        n_alone=len(alone),
        mean_kld_nats=float(free.mean()),
        mean_kld_by_node_nats=float(by_node.mean()),
    )


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return how far values moved; of indices, which are other (1) and which not (0).

    Equal infinities, of a mask, did not move.
    """
    if before.dtype != np.float32:
        return np.asarray(before != after, dtype=np.float32)
    moved = np.zeros(before.shape)
    np.subtract(after, before, dtype=np.float64, where=before != after, out=moved)
    moved[np.isnan(moved)] = np.inf
    return moved


def _floats(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if values.dtype != np.float32:
        return values
    noise = random.uniform(1 - F16_STEP, 1 + F16_STEP, values.shape)
    return np.asarray(values * noise, dtype=np.float32)


def _blocks(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if values.dtype != np.float32 or not np.isfinite(values).all():
        return values
    length = values.shape[-1]
    block = next((size for size in (256, 32) if length % size == 0), length)
    steps = np.abs(values.reshape(-1, block)).max(axis=1, keepdims=True) / 127
    noise = random.uniform(-0.5, 0.5, (len(steps), block)) * steps
    return np.asarray(values + noise.reshape(values.shape), dtype=np.float32)


_NOISE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "floats": _floats,
    "blocks": _blocks,
}

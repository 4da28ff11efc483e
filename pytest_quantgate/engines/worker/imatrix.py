"""Importance matrices: what ``llama-imatrix`` collects, through the graph's callback.

Follows ``IMatrixCollector::collect_imatrix`` and ``compute_imatrix`` of llama.cpp's
``tools/imatrix/imatrix.cpp``: for each matrix multiplication the sum of squares of each input
column and the number of rows that went in, for experts each one's own. Chunks as for perplexity,
with the logits of all tokens wanted: else the last layer would be cut to the scored rows.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_quantgate.engines.messages import CollectImatrix, ImatrixCollected, Message, Progress
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.graph import F32, StructuredNodes, Watch
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.scoring import chunk_tokens, read_text

_FEWEST_ROWS = 16
"""llama-imatrix looks away from multiplications of fewer rows."""


@dataclass
class _Sums:
    """One weight's sums: float64 of shape (n, columns), and int64 counts of shape (n,)."""

    values: np.ndarray
    counts: np.ndarray


def weight_name(node_name: str) -> str:
    """Return a weight's own name: ``CUDA0#blk.0.attn_k.weight#0`` is ``blk.0.attn_k.weight``."""
    parts = node_name.split("#")
    return parts[1] if len(parts) > 1 else node_name


def expert_sums(rows: np.ndarray, ids: np.ndarray, n_experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the squares of the rows that went into each expert.

    Args:
        rows: float32, shape (tokens, 1 or experts used, columns): with 1, every expert that a
            token uses gets the same row.
        ids: int32, shape (tokens, experts used).
        n_experts: how many there are.

    Returns:
        Sums float64 of shape (n_experts, columns), counts int64 of shape (n_experts,).

    """
    n_tokens, n_used = ids.shape
    chosen = ids.reshape(-1)
    if chosen.min(initial=0) < 0 or chosen.max(initial=0) >= n_experts:
        raise EngineRefusal(f"the graph names an expert that is not among the {n_experts}")
    columns = rows.shape[2]
    place = np.arange(n_used) % rows.shape[1]
    flat = (np.arange(n_tokens)[:, None] * rows.shape[1] + place).reshape(-1)
    order = np.argsort(chosen, kind="stable")
    counts = np.bincount(chosen, minlength=n_experts)
    sums = np.zeros((n_experts, columns), dtype=np.float64)
    used = np.flatnonzero(counts)
    starts = np.concatenate([[0], np.cumsum(counts)])[used]
    squares = np.square(rows.reshape(-1, columns)[flat[order]], dtype=np.float64)
    sums[used] = np.add.reduceat(squares, starts, axis=0)
    return sums, counts


class Collector:
    """Collects sums over all decodes of a context that has its callback."""

    def __init__(self) -> None:
        self.sums: dict[str, _Sums] = {}
        self._nodes = StructuredNodes()
        self._watch = Watch(self._wants, self._take)
        self.callback = self._watch.callback

    def check(self) -> None:
        """Raise what went wrong in the callback."""
        self._watch.check()

    def _wants(self, node: int) -> bool:
        nodes, operation = self._nodes, self._nodes.operation(node)
        if operation == "MUL_MAT_ID":
            return True
        if operation != "MUL_MAT":
            return False
        weights, rows = nodes.source(node, 0), nodes.source(node, 1)
        return (
            weights is not None
            and rows is not None
            and nodes.shape(rows)[1] >= _FEWEST_ROWS
            and nodes.type(rows) == F32
            and weight_name(nodes.name(weights)).startswith("blk.")
        )

    def _take(self, node: int) -> None:
        nodes = self._nodes
        weights, rows = nodes.source(node, 0), nodes.source(node, 1)
        if weights is None or rows is None:
            raise EngineRefusal(f"the node {nodes.name(node)!r} has no sources")
        shape, name = nodes.shape(weights), weight_name(nodes.name(weights))
        data = nodes.array(rows)
        if nodes.operation(node) == "MUL_MAT_ID":
            ids = nodes.source(node, 2)
            if ids is None or data.shape[0] != 1:
                raise EngineRefusal(f"the input of {name!r} is of shape {data.shape}")
            sums, counts = expert_sums(data[0], nodes.array(ids)[0, 0], shape[2])
        else:
            n_matrices = shape[2] * shape[3]
            # Rows of a batch go to its matrix; where the weight is one matrix, all go to it.
            grouped = data.reshape(
                data.shape[0] // shape[3],
                shape[3],
                data.shape[1] // shape[2],
                shape[2],
                *data.shape[2:],
            )
            squares = np.square(grouped, dtype=np.float64).sum(axis=(0, 2, 4))
            sums = squares.reshape(1, -1)
            counts = np.array([data[..., 0].size // n_matrices])
        known = self.sums.get(name)
        if known is None:
            self.sums[name] = _Sums(values=sums, counts=counts)
        elif known.values.shape != sums.shape:
            raise EngineRefusal(f"{name!r} takes inputs of two shapes")
        else:
            known.values += sums
            known.counts += counts


def collect_imatrix(
    request: CollectImatrix, log: LogTap, send: Callable[[Message], None]
) -> ImatrixCollected:
    """Decode the text and write the sums as ``.npz``: ``NAME.in_sum2`` and ``NAME.counts``.

    Raises:
        EngineRefusal: the library lays its graph out in another way, or the text is shorter
            than a chunk.

    """
    collector = Collector()
    n_ctx = request.n_ctx
    with Model(request, log=log, send=send) as model:
        model.open(
            request,
            n_ctx=n_ctx,
            n_batch=n_ctx,
            n_ubatch=min(512, n_ctx),
            graph_callback=collector.callback,
        )
        tokens = model.vocabulary.tokenize(read_text(request.text))
        n_chunks = min(len(tokens) // n_ctx, request.max_chunks or len(tokens))
        if n_chunks == 0:
            raise EngineRefusal(
                f"the text of an importance matrix has {len(tokens):,} tokens, less than one"
                f" chunk of n_ctx = {n_ctx}; take a longer text"
            )
        for index in range(n_chunks):
            model.decode(chunk_tokens(tokens, index, n_ctx, model.vocabulary), 0)
            collector.check()
            send(Progress(what="imatrix", done=index + 1, total=n_chunks))
    arrays = {}
    for name, sums in sorted(collector.sums.items()):
        arrays[f"{name}.in_sum2"] = sums.values.astype(np.float32)
        arrays[f"{name}.counts"] = sums.counts.astype(np.float32)
    buffer = io.BytesIO()  # numpy would add an ending to the name of a file
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # numpy's stub takes no mapping
    Path(request.destination).write_bytes(buffer.getvalue())
    return ImatrixCollected(n_chunks=n_chunks)

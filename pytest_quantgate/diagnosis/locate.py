"""Where two computations first differ by more than rounding explains.

One side's graph is recorded node by node; the other computes each node from the recorded inputs.
See :mod:`pytest_quantgate.engines.worker.tracing`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pytest_quantgate.diagnosis.sides import Side, type_number
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages import (
    CompareNodes,
    NodeDifference,
    NodesCompared,
    RecordNodes,
)
from pytest_quantgate.gguf.digests import digest_file

WINDOW = 64
"""Tokens whose nodes are compared, at most."""

MAX_EXCESS = 4.0
"""How many times what rounding explains an operation on equal weights may be off.

The largest of sound kernels is 1.15: attention token by token against 64 at once, llama.cpp's CPU
backend with AVX2, olmoe-mini in Q4_K_M and lfm2moe-mini in Q4_0 (docs/how-to/diagnosis.md)."""

MAX_EXCESS_OF_WEIGHTS = 20.0
"""The same where the weights are of two files. Their types' errors are those of normally
distributed values, from which a single column of a model is up to 6.3 times away (MXFP4)."""

MIN_KLD_NATS = 1e-3
"""A divergence below this needs no explanation by a fused kernel."""


class Origin(Enum):
    """What a difference comes from."""

    NONE = "none"
    WEIGHTS = "weights"
    OPERATION = "operation"
    FUSED = "fused"


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where two sides first differ.

    ``further`` are the nodes that are further away than rounding explains, in the order of the
    graph; ``largest`` the most distant ones of all, whether further or not.
    """

    first: Side
    second: Side
    n_tokens: int
    n_nodes: int
    n_alone: int
    mean_kld_nats: float
    mean_kld_by_node_nats: float
    further: tuple[NodeDifference, ...]
    largest: tuple[NodeDifference, ...]

    @property
    def origin(self) -> Origin:
        """What the difference comes from."""
        if self.further:
            return Origin.WEIGHTS if self.further[0].weights else Origin.OPERATION
        apart = self.mean_kld_nats > max(MIN_KLD_NATS, 10 * self.mean_kld_by_node_nats)
        return Origin.FUSED if apart else Origin.NONE

    @property
    def same_operation(self) -> int:
        """How many of the nodes that are too far are of the first one's operation and types."""
        return sum(_kind(node) == _kind(self.further[0]) for node in self.further)


def _kind(node: NodeDifference) -> tuple[str, tuple[str, ...]]:
    return node.operation, node.source_types[:1]


def limit_of(node: NodeDifference) -> float:
    """Return how many times what rounding explains a node may be off."""
    return MAX_EXCESS_OF_WEIGHTS if node.weights else MAX_EXCESS


def locate(
    first: Side,
    second: Side,
    *,
    text: Path,
    chunk: int,
    n_ctx: int,
    n_tokens: int,
    engine_of: Callable[[Side], Engine],
) -> Location:
    """Compare two sides on the first ``n_tokens`` of a chunk.

    Args:
        first: the side whose values are recorded, that is taken as right.
        second: the side that is compared with it.
        text: the text.
        chunk: which chunk of ``n_ctx`` tokens.
        n_ctx: the length of a chunk.
        n_tokens: how many of its tokens are decoded; the nodes of the last :data:`WINDOW` count.
        engine_of: returns a side's engine.

    Raises:
        CellError: a side could not be computed.

    """
    window = min(n_tokens, WINDOW)
    with tempfile.TemporaryDirectory(prefix="quantgate-") as folder:
        common: dict[str, Any] = {
            "text": str(text),
            "chunk": chunk,
            "n_ctx": n_ctx,
            "folder": folder,
        }
        engine_of(first).ask(
            RecordNodes(
                **_conditions(first, n_tokens), **common, n_tokens=n_tokens, n_window=window
            )
        )
        compared = engine_of(second).ask(
            CompareNodes(
                **_conditions(second, n_tokens),
                **common,
                changed_tensors=changed_tensors(first.path, second.path),
            )
        )
    return make_location(first, second, n_tokens, compared)


def make_location(first: Side, second: Side, n_tokens: int, compared: NodesCompared) -> Location:
    """Judge what a comparison of nodes has given."""
    largest = sorted(compared.nodes, key=lambda node: -node.excess / limit_of(node))
    return Location(
        first=first,
        second=second,
        n_tokens=n_tokens,
        n_nodes=len(compared.nodes),
        n_alone=compared.n_alone,
        mean_kld_nats=compared.mean_kld_nats,
        mean_kld_by_node_nats=compared.mean_kld_by_node_nats,
        further=tuple(node for node in compared.nodes if not node.excess <= limit_of(node)),
        largest=tuple(node for node in largest[:3] if node.excess > 0),
    )


def changed_tensors(first: Path, second: Path) -> tuple[str, ...]:
    """Return the tensors whose type or bytes differ between two files."""
    if first == second:
        return ()
    before, after = (
        {tensor.name: (tensor.type, tensor.sha256) for tensor in digest_file(path).tensors}
        for path in (first, second)
    )
    return tuple(name for name in after if after[name] != before.get(name))


def _conditions(side: Side, n_tokens: int) -> dict[str, Any]:
    return {
        "model": str(side.path),
        "device": side.device,
        "n_threads": side.n_threads,
        "flash_attention": side.flash_attention,
        "type_k": type_number(side.type_k),
        "type_v": type_number(side.type_v),
        "repack": side.repack,
        "n_ubatch": min(side.n_ubatch, n_tokens),
    }

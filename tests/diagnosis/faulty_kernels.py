"""The child's side of a worker in which one operation computes wrongly, on some rows or all.

The fault is planted where a node's values are first read after it was computed, and written back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.engines.worker import graph, serve

_COMPUTED = graph.StructuredNodes.array


def _array(self: graph.StructuredNodes, node: int) -> np.ndarray:
    values = _COMPUTED(self, node)
    fault = Path(os.environ["FAULT"]).read_text(encoding="utf-8")
    name, operation, rows, factor = fault.split(":") if fault else ("", "", "", "")
    if self.name(node).startswith(name) and self.operation(node) == operation:
        chosen = values.reshape(-1, values.shape[-1])[int(rows) if rows else slice(None)]
        chosen[...] = chosen[..., ::-1] if factor == "swap" else chosen * np.float32(factor)
        self.write(node, values)
    return values


def serve_faulty(channel: Any) -> None:
    """Answer requests with the fault that the file FAULT has at the time."""
    graph.StructuredNodes.array = _array  # type: ignore[method-assign]
    serve.serve(channel)

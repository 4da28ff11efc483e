"""Which experts a model chose for each token, and with which weights.

llama.cpp's ``build_moe_ffn`` (src/llama-graph.cpp) sorts the experts of a layer for every token:
the node ``ffn_moe_argsort-N`` has their numbers, best first, of which the first k are used, and
``ffn_moe_weights-N`` the router's weights of these k. Where the weights go through a softmax
afterwards, the node is ``ffn_moe_weights_softmax-N``.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pytest_quantgate.engines.worker.graph import Nodes

_NODE = re.compile(r"^ffn_moe_(argsort|weights|weights_softmax)-(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Routes:
    """The experts of some tokens: arrays of shape (layers, tokens, experts used), best first.

    ``layers`` are the numbers of the layers with experts, ``experts`` int16, ``weights`` float32
    and of sum 1 over the experts of a token.
    """

    layers: tuple[int, ...]
    experts: np.ndarray
    weights: np.ndarray


class RouteReader:
    """Collects the chosen experts of each decode while ``listening``."""

    def __init__(self, nodes: Nodes) -> None:
        self.listening = False
        self._nodes = nodes
        self._sorted: dict[int, list[np.ndarray]] = {}
        self._weights: dict[tuple[int, str], list[np.ndarray]] = {}

    def wants(self, name: str) -> bool:
        """Return whether a node of this name is read."""
        return self.listening and _NODE.match(name) is not None

    def read(self, name: str, node: int) -> None:
        """Read a node."""
        match = _NODE.match(name)
        assert match is not None
        kind, layer = match[1], int(match[2])
        rows = self._nodes.rows(node, np.int32 if kind == "argsort" else np.float32)
        if not rows.size:
            return
        if kind == "argsort":
            self._sorted.setdefault(layer, []).append(rows)
        else:
            self._weights.setdefault((layer, kind), []).append(rows.ravel())

    def take(self, n_tokens: int, first: int, count: int) -> Routes | None:
        """Return the routes of some tokens since the last call; None where no layer has experts.

        Args:
            n_tokens: how many tokens were decoded.
            first: the first token that is wanted; the logits of it and all that follow were on.
            count: how many are wanted.

        """
        by_layer, self._sorted = self._sorted, {}
        weights, self._weights = self._weights, {}
        layers, experts, shares = [], [], []
        for layer in sorted(by_layer):
            rows = np.concatenate(by_layer[layer])
            parts = weights.get((layer, "weights_softmax")) or weights.get((layer, "weights"))
            # The last layer computes only the rows whose logits are wanted.
            skipped = {n_tokens: first, n_tokens - first: 0}.get(len(rows))
            if parts is None or skipped is None:
                return None
            chosen = np.concatenate(parts).reshape(len(rows), -1)
            used = chosen.shape[1]
            layers.append(layer)
            experts.append(rows[skipped : skipped + count, :used].astype(np.int16))
            shares.append(chosen[skipped : skipped + count])
        if not layers or len({item.shape for item in experts}) != 1:
            return None
        total = np.stack(shares)
        return Routes(
            layers=tuple(layers),
            experts=np.stack(experts),
            weights=total / total.sum(axis=2, keepdims=True),
        )

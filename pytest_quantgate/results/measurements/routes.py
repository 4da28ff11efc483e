"""Routes: the experts that a model chose for each scored token of its first chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pytest_quantgate.engines.messages import ScoredChunk

MAX_ROUTE_CHUNKS = 16
"""Routes are recorded at the chunks of the first look, up to so many."""

MAX_ROUTE_CHUNKS_APART = 4
"""… where they take a pass of their own: 1,020 tokens of 512 a chunk, each in every layer."""


@dataclass(frozen=True, kw_only=True)
class Routes:
    """The chosen experts of the first chunks of a measurement, in its order.

    ``layers`` are the numbers of the layers with experts. ``experts`` (int16, best first) and
    ``weights`` (float32, of sum 1 a token) have shape (chunks, layers, tokens a chunk, experts
    used).
    """

    layers: tuple[int, ...]
    experts: npt.NDArray[np.int16]
    weights: npt.NDArray[np.float32]

    def first(self, count: int) -> Routes:
        """Return the routes of the first chunks."""
        return replace(self, experts=self.experts[:count], weights=self.weights[:count])


def read_routes(reply: ScoredChunk, tokens: int) -> Routes | None:
    """Return the routes that a worker sent with a chunk, as those of one chunk."""
    if not reply.route_layers:
        return None
    shape = (1, len(reply.route_layers), tokens, -1)
    return Routes(
        layers=reply.route_layers,
        experts=np.frombuffer(reply.experts, dtype=np.int16).reshape(shape),
        weights=np.frombuffer(reply.expert_weights, dtype=np.float32).reshape(shape),
    )


def join_routes(known: Routes | None, more: Routes | None) -> Routes | None:
    """Return the routes of the chunks of both, one after the other."""
    if known is None or more is None or known.layers != more.layers:
        return known or more
    return replace(
        known,
        experts=np.concatenate([known.experts, more.experts]),
        weights=np.concatenate([known.weights, more.weights]),
    )

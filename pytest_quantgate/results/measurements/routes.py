"""Routes: the experts that a model chose for each scored token of its first chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pytest_quantgate.engines.messages import ScoredChunk
from pytest_quantgate.errors import CellCrashed
from pytest_quantgate.storage.arrays import array_of

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
    n_layers = len(reply.route_layers)
    n_used = max(1, len(reply.experts) // (2 * n_layers * tokens))
    shape = (1, n_layers, tokens, n_used)
    return Routes(
        layers=reply.route_layers,
        experts=array_of(reply.experts, np.int16, *shape),
        weights=array_of(reply.expert_weights, np.float32, *shape),
    )


def join_routes(known: Routes | None, more: Routes | None) -> Routes | None:
    """Return the routes of the chunks of both, one after the other.

    Raises:
        CellCrashed: they are of other numbers of tokens or experts.

    """
    if known is None or more is None or known.layers != more.layers:
        return known or more
    if known.experts.shape[2:] != more.experts.shape[2:]:
        raise CellCrashed(
            f"the engine sent {more.experts.shape[3]} experts of each of {more.experts.shape[2]}"
            f" tokens, after {known.experts.shape[3]} of {known.experts.shape[2]}"
        )
    return replace(
        known,
        experts=np.concatenate([known.experts, more.experts]),
        weights=np.concatenate([known.weights, more.weights]),
    )

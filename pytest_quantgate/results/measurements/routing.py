"""Routing: whether a quantized mixture sends its tokens to the experts that the reference chose."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerRouting:
    """One layer against the reference's.

    ``same_experts`` and ``same_top_expert`` are numbers of tokens with the same set of experts
    and the same first one; ``shared_weight`` is the share of the reference's router weights that
    lies on experts chosen by both, ``load`` the share of the tokens that each expert takes, and
    ``exchanged`` how many experts stand at another's place in the file.
    """

    layer: int
    tokens: int
    same_experts: int
    same_top_expert: int
    shared_weight: float
    load: tuple[float, ...]
    reference_load: tuple[float, ...]
    exchanged: int


@dataclass(frozen=True, kw_only=True)
class ExpertError:
    """The error of one expert's weights, relative RMS over its matrices.

    ``weighted`` counts each input column by its mean square in the importance matrix, None
    without one.
    """

    layer: int
    expert: int
    relative_rms: float
    weighted: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExpertUse:
    """An expert that a domain uses: the share of the domain's tokens, and of all tokens."""

    layer: int
    expert: int
    share: float
    share_of_all: float


@dataclass(frozen=True, kw_only=True)
class DomainRouting:
    """The experts that a domain of the text uses most, by the reference's routes."""

    name: str
    tokens: int
    most_used: tuple[ExpertUse, ...]


@dataclass(frozen=True, kw_only=True)
class RoutingMeasurement:
    """The routes of a cell against its reference's, on the scored tokens of the first chunks.

    ``obstacle`` says why nothing was compared; then the rest is empty. ``is_of_engine`` says that
    this kind of engine has no way to report routes, whatever the model. ``changed_tokens`` chose
    other experts in at least one layer, and ``kld_share_changed`` is their share of the
    divergence, None where there is none. ``chunk_indices`` are the chunks' places in the text,
    ``chunk_same_experts`` their numbers of tokens with the same experts, summed over the layers.
    """

    n_experts: int
    n_experts_used: int
    obstacle: str | None = None
    is_of_engine: bool = False
    is_reference: bool = False
    tokens: int = 0
    layers: tuple[LayerRouting, ...] = ()
    chunk_indices: tuple[int, ...] = ()
    chunk_same_experts: tuple[int, ...] = ()
    changed_tokens: int = 0
    kld_share_changed: float | None = None
    mean_kld_changed_nats: float | None = None
    mean_kld_same_nats: float | None = None
    experts: tuple[ExpertError, ...] = ()
    domains: tuple[DomainRouting, ...] = ()

    def __post_init__(self) -> None:
        if len(self.chunk_indices) != len(self.chunk_same_experts):
            raise ValueError("the routes' columns are of unequal length")
        counts = [self.tokens, *(layer.tokens for layer in self.layers)]
        if self.layers and (min(counts) < 1 or not all(layer.load for layer in self.layers)):
            raise ValueError("routes of a layer without tokens or experts")

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said aloud: that nothing was judged, where an engine cannot report it."""
        return (self.obstacle,) if self.is_of_engine and self.obstacle else ()

    @property
    def same_experts(self) -> float:
        """Share of tokens, over all layers, with the same set of experts."""
        return _share(sum(layer.same_experts for layer in self.layers), self._routes)

    @property
    def same_top_expert(self) -> float:
        """Share of tokens, over all layers, with the same first expert."""
        return _share(sum(layer.same_top_expert for layer in self.layers), self._routes)

    @property
    def shared_weight(self) -> float:
        """Share of the reference's router weights on experts that both chose."""
        return _share(math.fsum(layer.shared_weight for layer in self.layers), len(self.layers))

    @property
    def max_load_share(self) -> float:
        """Largest share of the tokens that an expert takes in its layer."""
        return max((max(layer.load) for layer in self.layers), default=math.nan)

    @property
    def _routes(self) -> int:
        return sum(layer.tokens for layer in self.layers)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan

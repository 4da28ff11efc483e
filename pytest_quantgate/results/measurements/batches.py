"""Batch geometry: how far a model's distributions depend on how its tokens are batched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One batch size against all tokens in one batch, in nats a token.

    ``repack`` tells whether the weights could be repacked for the CPU; ``n_ubatch`` 0 is token
    by token.
    """

    n_ubatch: int
    repack: bool
    mean_kld_nats: float
    max_kld_nats: float
    top_tokens_changed: int

    @property
    def name(self) -> str:
        """What a person reads."""
        size = f"n_ubatch {self.n_ubatch}" if self.n_ubatch else "token by token"
        return size if self.repack else f"{size}, not repacked"


@dataclass(frozen=True, kw_only=True)
class BatchMeasurement:
    """All geometries of one cell."""

    geometries: tuple[Geometry, ...]

    def __post_init__(self) -> None:
        if not self.geometries:
            raise ValueError("no batch geometry was compared")

    @property
    def worst(self) -> Geometry:
        """The geometry that is furthest from one batch; one that is no number comes first."""
        return max(
            self.geometries,
            key=lambda item: (item.mean_kld_nats != item.mean_kld_nats, item.mean_kld_nats),
        )

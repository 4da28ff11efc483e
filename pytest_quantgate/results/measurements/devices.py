"""Devices: how far a cell's distributions are from those of the profile's first device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DeviceDifference:
    """One batch size on the cell's device against one batch on the other, in nats a token."""

    n_ubatch: int
    mean_kld_nats: float
    max_kld_nats: float
    top_tokens_changed: int


@dataclass(frozen=True, kw_only=True)
class DeviceMeasurement:
    """A cell on its device against the same file on the device ``against``."""

    against: str
    n_tokens: int
    differences: tuple[DeviceDifference, ...]

    def __post_init__(self) -> None:
        if not self.differences:
            raise ValueError("no batch size was compared")

    @property
    def worst(self) -> DeviceDifference:
        """The batch size that is furthest away; one that is no number comes first."""
        return max(
            self.differences,
            key=lambda item: (item.mean_kld_nats != item.mean_kld_nats, item.mean_kld_nats),
        )

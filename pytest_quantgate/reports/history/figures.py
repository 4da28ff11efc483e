"""The figures that a history follows: how each is written, and what of its scatter means nothing.

The floor of a deterministic figure is well above what another build, batch or number of threads
moves by rounding, and well below any limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pytest_quantgate.reports.words import number, rate


class Unit(Enum):
    """What a figure counts; the value is what exports call it."""

    PERPLEXITY = "ppl"
    NATS = "nats"
    SHARE = "share"
    BYTES = "bytes"
    RATE = "tokens/s"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A kind of figure.

    Attributes:
        slug: its name in exports.
        unit: what it counts.
        more_is_better: its direction.
        floor: a scatter that means nothing: relative, or a share where the unit is one.
        least_floor: likewise in the figure's unit, where it is near zero.
        persistence: how many values a new level lasts before it counts; a disturbed speed is
            alone, a deterministic figure changes once.

    """

    slug: str
    unit: Unit
    more_is_better: bool = False
    floor: float
    least_floor: float = 0.0
    persistence: int = 1

    def floor_at(self, value: float) -> float:
        """Return the floor in the figure's unit at a usual value."""
        if self.unit is Unit.SHARE:
            return self.floor
        return max(self.floor * abs(value), self.least_floor, 1e-300)

    def text(self, value: float) -> str:
        """Return a value as reports write it."""
        match self.unit:
            case Unit.PERPLEXITY:
                return number(value, ".4f")
            case Unit.NATS:
                return number(value, ".5f")
            case Unit.SHARE:
                return f"{number(100 * value, '.2f')} %"
            case Unit.BYTES:
                return f"{value / 1e6:,.3f}"
            case Unit.RATE:
                return rate(value)

    def change(self, before: float, after: float) -> str:
        """Return how far it is from one value to another: in percent, of a share in points."""
        if self.unit is Unit.SHARE:
            return f"{number(100 * (after - before), '+.2f')} points"
        if before == 0:
            return number(after - before, "+.5g")
        return f"{number(100 * (after / before - 1), '+.2f')} %"

    def is_worse(self, before: float, after: float) -> bool:
        """Return whether a change is for the worse."""
        return (after < before) if self.more_is_better else (after > before)


PPL = Figure(slug="perplexity", unit=Unit.PERPLEXITY, floor=1e-4)
KLD = Figure(slug="mean-kld", unit=Unit.NATS, floor=5e-3, least_floor=1e-6)
SAME_TOP = Figure(slug="same-top", unit=Unit.SHARE, more_is_better=True, floor=5e-4)
SAME_EXPERTS = Figure(slug="same-experts", unit=Unit.SHARE, more_is_better=True, floor=5e-4)
SIZE = Figure(slug="file-size", unit=Unit.BYTES, floor=0.0, least_floor=0.3)
SPEED = Figure(slug="speed", unit=Unit.RATE, more_is_better=True, floor=5e-3, persistence=2)
MEMORY = Figure(slug="peak-memory", unit=Unit.BYTES, floor=5e-3, persistence=2)

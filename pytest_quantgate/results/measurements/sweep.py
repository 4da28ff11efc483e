"""A sweep: one file under many conditions, each against one reference condition."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SweptPoint:
    """One set of conditions; ``changes`` says what is other than in the reference condition.

    ``kind`` is the value of a :class:`~pytest_quantgate.engines.sweep.Kind`; ``cache_error`` the
    relative error of the types that keys and values have instead. ``block_klds_nats`` are means of
    blocks of tokens, which begin at ``block_starts``. ``nll_increase_nats`` is by how much tokens
    are less likely with a long text before them than with a short one. ``problem`` says why the
    engine refused, "" where it did not; figures are 0 then.
    """

    changes: tuple[str, ...]
    kind: str
    cache_error: float
    mean_kld_nats: float
    top_tokens_changed: int
    block_starts: tuple[int, ...]
    block_klds_nats: tuple[float, ...]
    nll_increase_nats: float
    nll_error_nats: float
    problem: str

    @property
    def name(self) -> str:
        """What a person reads."""
        return ", ".join(self.changes)

    @property
    def is_finite(self) -> bool:
        """Whether all figures are numbers."""
        return math.isfinite(self.mean_kld_nats) and math.isfinite(self.nll_increase_nats)


@dataclass(frozen=True, kw_only=True)
class SweepMeasurement:
    """All conditions of one cell, the fewest changes and the smallest sizes first."""

    n_tokens: int
    reference: str
    points: tuple[SweptPoint, ...]

"""Settings noise: how far a cell's figures move with settings that should not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_quantgate.engines.conditions import Conditions


@dataclass(frozen=True, kw_only=True)
class SettingScores:
    """What one setting gave; figures are None where it could not be measured.

    ``problem`` says why not; ``is_fault`` that the engine failed, and did not only refuse.
    ``mean_kld_nats`` is against the reference as the profile's own setting gives it, None without
    one. Changed tokens and ``largest_nats`` compare with the profile's own setting.
    ``rms_nats`` is the distance from the central setting: the root of the mean squared
    difference of the tokens' log-likelihoods. Half its square is, for small differences, the KL
    divergence between both.
    """

    name: str
    setting: Conditions
    ppl: float | None = None
    mean_kld_nats: float | None = None
    tokens_changed: int | None = None
    top_tokens_changed: int | None = None
    largest_nats: float | None = None
    rms_nats: float | None = None
    problem: str | None = None
    is_fault: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether it was measured, and as a number."""
        return self.ppl is not None and math.isfinite(self.ppl)


@dataclass(frozen=True, kw_only=True)
class NoiseMeasurement:
    """All settings of one cell, the profile's own first.

    ``centre`` is the setting with the smallest median distance from the others.
    """

    chunks: int
    tokens: int
    centre: str
    settings: tuple[SettingScores, ...]

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.centre not in {item.name for item in self.settings}:
            raise ValueError("noise of no tokens, or without its central setting")

    @property
    def own(self) -> SettingScores:
        """The profile's own setting."""
        return self.settings[0]

    @property
    def central(self) -> SettingScores:
        """The central setting."""
        return next(item for item in self.settings if item.name == self.centre)

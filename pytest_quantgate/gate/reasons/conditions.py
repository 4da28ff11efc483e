"""Conditions that should not matter: settings noise, and sweeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_quantgate.config.limit import Limit, Value
from pytest_quantgate.gate.reasons.words import first_line, percent
from pytest_quantgate.results.measurements.noise import SettingScores
from pytest_quantgate.results.verdicts import Fact


@dataclass(frozen=True, kw_only=True)
class NothingMeasured(Fact):
    """Nothing of a kind could be measured; ``problem`` is the first one's, "" for none."""

    what: str
    problem: str

    def __str__(self) -> str:
        return self.what + (f": {first_line(self.problem)}" if self.problem else "")


@dataclass(frozen=True, kw_only=True)
class NoiseSize(Fact):
    """How far settings that should not matter move the figures."""

    ppl_shift: float
    kld_shift_nats: float | None

    def __str__(self) -> str:
        text = f"settings move PPL by up to {100 * self.ppl_shift:.2g} %"
        if self.kld_shift_nats is not None:
            text += f", mean KLD by up to {self.kld_shift_nats:.2g} nats"
        return text


@dataclass(frozen=True, kw_only=True)
class Outlier(Fact):
    """A setting that rounding does not explain, and the central one that it is held against."""

    setting: SettingScores
    centre: SettingScores
    threshold_nats: float
    max_ppl_shift: float

    def __str__(self) -> str:
        item = self.setting
        start = f"a fault of the engine: {item.name!r} is an outlier among the settings"
        if item.problem is not None:
            return f"{start}: {first_line(item.problem)}"
        if not item.is_finite or item.rms_nats is None or not math.isfinite(item.rms_nats):
            return f"{start}: PPL {item.ppl} is not finite"
        text = (
            f"{start}: {item.rms_nats:.3g} nats a token (RMS) from the others, where rounding"
            f" explains {self.threshold_nats:.3g}; PPL {item.ppl:.4f} against"
            f" {self.centre.ppl:.4f}"
        )
        if item.rms_nats <= self.threshold_nats:
            text += f", where rounding explains {100 * self.max_ppl_shift:g} %"
        mine, theirs = item.mean_kld_nats, self.centre.mean_kld_nats
        if mine is None or theirs is None:
            return text
        wrong = "it is probably" if mine > theirs else "the others are probably"
        klds = f"mean KLD to the reference {mine:.3g} against {theirs:.3g} nats"
        return f"{text}, {klds}: {wrong} wrong"


@dataclass(frozen=True, kw_only=True)
class BelowNoise(Fact):
    """A limit that is below what settings alone may move."""

    limit: Limit
    value: float
    floor: float
    margin: float

    def __str__(self) -> str:
        value, floor = (self._shown(item) for item in (self.value, self.floor))
        return (
            f"the limit {self.limit.name} of {value} is below {floor}, {self.margin:g} times the"
            " largest shift between settings"
        )

    def _shown(self, value: float) -> str:
        is_change = self.limit.value is Value.INCREASE
        return percent(value) if is_change else f"{value:.3g} {self.limit.unit}"


@dataclass(frozen=True, kw_only=True)
class SoundConditions(Fact):
    """No condition is too far away; the furthest."""

    compared: int
    furthest: str
    kld_nats: float
    refused: int

    def __str__(self) -> str:
        text = (
            f"{self.compared} conditions, the furthest {self.furthest!r}: {self.kld_nats:.2g} nats"
        )
        return f"{text}; {self.refused} refused" if self.refused else text


@dataclass(frozen=True, kw_only=True)
class FaultyCondition(Fact):
    """The smallest condition that fails.

    ``nll_increase_nats`` is there where a longer text makes tokens less likely than one of
    ``n_tokens``, ``first_token`` where all from it on are too far; ``others`` also fail, and
    ``apart`` are those of them that have no change in common with it.
    """

    name: str
    kld_nats: float
    reference: str
    explained_nats: float
    nll_increase_nats: float | None
    n_tokens: int
    first_token: int | None
    others: int
    apart: tuple[str, ...]

    def __str__(self) -> str:
        text = (
            f"{self.name!r} is {self.kld_nats:.3g} nats from the reference condition"
            f" ({self.reference}), where sound kernels explain {self.explained_nats:.2g}"
        )
        if self.nll_increase_nats is not None:
            text = (
                f"{self.name!r}: tokens are {self.nll_increase_nats:.3g} nats less likely than with"
                f" {self.n_tokens} tokens before them"
            )
        if self.first_token:
            text += f", from token {self.first_token} on"
        if self.others:
            text += f"; {self.others} further conditions fail"
            names = ", ".join(map(repr, self.apart[:2]))
            text += f", as {names}" if self.apart else ", all with it"
        return text

"""Changes of paired figures, plain maxima, and what would decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import Versus
from pytest_quantgate.gate.reasons.comparability import Plain
from pytest_quantgate.gate.reasons.scales import Scale
from pytest_quantgate.gate.reasons.words import figure, percent
from pytest_quantgate.results.measurements.perplexity import TokenChanges
from pytest_quantgate.results.verdicts import Against, Fact, Reason


def noun(against: Against, versus: Versus) -> str:
    """Return what a judgement is against, for a sentence."""
    return versus if against is Against.BASELINE else f"the {against}"


@dataclass(frozen=True, kw_only=True)
class Identical(Fact):
    """Values are equal; ``undecided`` is why that says nothing of further chunks."""

    name: str
    against: Against
    versus: Versus
    tokens: int
    is_exact: bool
    undecided: stats.Reason | None

    def __str__(self) -> str:
        digits = "" if self.is_exact else ", to the digits printed"
        why = "" if self.undecided is None else f": {self.undecided.value}"
        same = f"{self.name} identical to {noun(self.against, self.versus)}'s"
        return f"{same} on {self.tokens:,} tokens{digits}{why}"


@dataclass(frozen=True, kw_only=True)
class Change(Fact):
    """How far a metric moved, with its interval of 95 %, or what it is where it has a limit."""

    scale: Scale
    against: Against
    versus: Versus
    estimate: stats.PairedEstimate
    decision: stats.Decision

    def __str__(self) -> str:
        estimate = self.estimate
        is_limit = self.against is Against.LIMIT
        where = "" if is_limit else f" against {noun(self.against, self.versus)}"
        sample = f"{estimate.chunks} chunks"
        if estimate.clusters != estimate.chunks:
            sample += f" in {estimate.clusters} clusters"
        limit = self.scale.text(self.scale.shown(self.decision.limit))
        move = self._move(is_limit=is_limit)
        return f"{move}{where} over {sample}; the limit is {limit}{self._evidence()}"

    def _move(self, *, is_limit: bool) -> str:
        scale, estimate = self.scale, self.estimate
        value = scale.shown(estimate.mean)
        low, high = (scale.text(scale.shown(bound)) for bound in stats.interval(estimate))
        interval = f" (95 %: {low} to {high})" if math.isfinite(estimate.standard_error) else ""
        if is_limit or not math.isfinite(value):
            return f"{scale.name} {scale.text(value)}{interval}"
        direction = "rose" if value >= 0 else "fell"
        return f"{scale.name} {direction} by {scale.size(abs(value))}{interval}"

    def _evidence(self) -> str:
        """Say what makes a change certain, or how uncertain it is."""
        scale, decision = self.scale, self.decision
        if decision.outcome is stats.Outcome.OUTSIDE and decision.reason is stats.Reason.BOUND:
            bound = scale.text(scale.shown(decision.lower_bound))
            confidence = f"{100 - 100 * stats.ALPHA_REGRESSED:g} % confidence"
            return f"; even at {confidence} it is above {bound}"
        if decision.outcome is not stats.Outcome.UNDECIDED:
            return ""
        if decision.reason is not stats.Reason.BETWEEN:
            return f"; cannot tell: {decision.reason.value}"
        low, high = (scale.shown(bound) for bound in stats.interval(self.estimate))
        width = scale.points((high - low) / 2)
        return f"; cannot tell: {self.estimate.chunks} chunks fix the change to ±{width}"


@dataclass(frozen=True, kw_only=True)
class MoreChunks(Fact):
    """How many more chunks would decide, and how many the text has ``left``."""

    more: int
    left: int
    versus: Versus

    def __str__(self) -> str:
        return f"about {self.more:,} more chunks would decide ({self._supply()})"

    def _supply(self) -> str:
        if not self.left:
            return str(Plain.END_OF_TEXT)
        steps = "raise baseline_chunks"
        if self.versus is Versus.BASELINE:
            steps += " and store the baseline anew"
        if self.left < self.more:
            steps += ", and score another text besides"
        return f"the text has {self.left:,} more: {steps}"


@dataclass(frozen=True, kw_only=True)
class RuntimeAlone(Fact):
    """Equal weights: what the divergence vouches for; ``most`` is the largest rise of PPL."""

    most: float

    def __str__(self) -> str:
        return (
            "only the runtime changed, the divergence from the reference is within its limit, and"
            f" the rise of PPL is below {percent(self.most)}"
        )


@dataclass(frozen=True, kw_only=True)
class TokensMoved(Fact):
    """How many tokens are not bit-equal, and the largest move."""

    changes: TokenChanges

    def __str__(self) -> str:
        changes = self.changes
        if changes.changed == 0:
            return f"none of {changes.tokens:,} tokens changed"
        largest = f"{changes.largest_nats:.3g} nats"
        if not math.isfinite(changes.largest_nats):
            largest = "not finite"
        return f"{changes.changed:,} of {changes.tokens:,} tokens changed, largest |Δ| {largest}"


@dataclass(frozen=True, kw_only=True)
class Maximum(Fact):
    """A number without a sampling error, and the most that it may be."""

    name: str
    value: float
    limit: float
    unit: str

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            relation = "is not finite, limit"
        else:
            relation = "is within" if self.value <= self.limit else "is above"
        value, limit = figure(self.value), figure(self.limit)
        return f"{self.name} {value}{self.unit} {relation} {limit}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class OfBeginning(Fact):
    """A figure is of so many chunks, which do not decide what it will be of all."""

    chunks: int

    def __str__(self) -> str:
        return f"scored so far: the first {self.chunks} chunks"


@dataclass(frozen=True, kw_only=True)
class Growth(Fact):
    """How much a number of bytes grew."""

    name: str
    against: Against
    versus: Versus
    now_bytes: int
    before_bytes: int
    limit: float

    def __str__(self) -> str:
        return (
            f"{self.name} {percent(self.now_bytes / self.before_bytes - 1)} against"
            f" {noun(self.against, self.versus)} ({self.now_bytes:,} bytes, was"
            f" {self.before_bytes:,}), limit {percent(self.limit)}"
        )


@dataclass(frozen=True, kw_only=True)
class NothingShown(Fact):
    """A mean that is 0 on every token, and the exact bound of 95 % on that of all tokens."""

    scale: Scale
    tokens: int
    bound: float
    limit: float
    is_enough: bool

    def __str__(self) -> str:
        scale = self.scale
        text = f"{scale.name} {scale.text(0.0)} over {self.tokens:,} tokens"
        if math.isfinite(self.bound) and self.limit > 0:
            text += f" (at 95 % confidence below {scale.text(self.bound)})"
        text += f"; the limit is {scale.text(self.limit)}"
        if not self.is_enough:
            text += "; cannot tell: raise chunks, or take a longer text"
        return text


@dataclass(frozen=True, kw_only=True)
class DomainRose(Fact):
    """One domain's perplexity rose by more than its limit."""

    domain: str
    versus: Versus
    estimate: stats.PairedEstimate
    limit: float
    is_certain: bool

    def __str__(self) -> str:
        change = stats.ppl_change(self.estimate.mean)
        low, high = map(percent, stats.ppl_ratio_interval(self.estimate))
        evidence = (
            f"certain at {100 - 100 * stats.ALPHA_REGRESSED:g} % for all domains together"
            if self.is_certain
            else "cannot tell whether it is above the limit"
        )
        return (
            f"PPL of the domain {self.domain!r} rose by {100 * change:.2f} % (95 %: {low} to"
            f" {high}) against {self.versus} over {self.estimate.chunks} chunks; the limit for a"
            f" domain is {percent(self.limit)}; {evidence}"
        )


@dataclass(frozen=True, kw_only=True)
class NoDomainRose(Fact):
    """No domain's perplexity rose by more than its limit; the limits by domain."""

    limits: Mapping[str, float]

    def __str__(self) -> str:
        limits = ", ".join(f"{name} {percent(limit)}" for name, limit in self.limits.items())
        return f"PPL of no domain rose by more than its limit ({limits}) beyond chance"


@dataclass(frozen=True, kw_only=True)
class DomainUnknown(Fact):
    """A domain that a limit names has too few documents."""

    domain: str
    min_documents: int

    def __str__(self) -> str:
        return (
            f"the domain {self.domain!r} cannot be judged: it needs {self.min_documents} documents"
            " among the scored chunks, and another domain beside it"
        )


@dataclass(frozen=True, kw_only=True)
class NoDomains(Fact):
    """A text without domains that could be judged."""

    min_documents: int

    def __str__(self) -> str:
        return (
            "no domain can be judged: the limit needs a text of two domains or more with at"
            f" least {self.min_documents} documents each among the scored chunks"
        )


@dataclass(frozen=True, kw_only=True)
class TooGood(Fact):
    """A gain on an equal file beyond so many limits."""

    limits: float

    def __str__(self) -> str:
        return (
            f"an equal file cannot become better by more than {self.limits} limits: see whether"
            " the engine reads tokens that it is to predict, or another file"
        )


@dataclass(frozen=True, kw_only=True)
class LimitsKept(Fact):
    """The quality's limits are kept, with the reasons that show it."""

    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        return f"every limit is kept: {'; '.join(map(str, self.reasons))}"

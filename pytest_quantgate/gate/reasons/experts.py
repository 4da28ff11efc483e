"""Routes of tokens to experts, and what an importance matrix knows of each expert."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.gate.observation import Versus
from pytest_quantgate.gate.reasons.words import points
from pytest_quantgate.results.measurements.imatrix import NO_EXPERTS, Expert
from pytest_quantgate.results.verdicts import Fact


@dataclass(frozen=True, kw_only=True)
class Minimum(Fact):
    """A share and the least that it may be."""

    name: str
    share: float
    limit: float

    def __str__(self) -> str:
        return f"{self.name} {100 * self.share:.2f} %, limit {100 * self.limit:g} % or more"


@dataclass(frozen=True, kw_only=True)
class ExpertLoad(Fact):
    """The expert that takes the largest share of the tokens."""

    expert: int
    layer: int
    share: float
    limit: float

    def __str__(self) -> str:
        return (
            f"expert {self.expert} of layer {self.layer} takes {100 * self.share:.2f} % of the"
            f" tokens, limit {100 * self.limit:g} %"
        )


@dataclass(frozen=True, kw_only=True)
class OtherRoutes(Fact):
    """The baseline's routes are of other chunks or layers."""

    versus: Versus

    def __str__(self) -> str:
        return f"{self.versus}'s routes are of other chunks or layers; store it anew"


@dataclass(frozen=True, kw_only=True)
class SameRoutes(Fact):
    """Every chunk routes as many tokens as the reference does, as before."""

    versus: Versus
    share: float

    def __str__(self) -> str:
        return f"routes as often as {self.versus}'s the reference's, {100 * self.share:.2f} %"


@dataclass(frozen=True, kw_only=True)
class RoutesChanged(Fact):
    """The rise of the share of changed routes; ``layer`` is the one that moved most, if any."""

    versus: Versus
    rise: float
    share: float
    limit: float
    layer: int
    layer_rise: float

    def __str__(self) -> str:
        worst = ""
        if self.layer_rise > 0:
            worst = f"; most in layer {self.layer}, {points(self.layer_rise)}"
        return (
            f"routes changed {points(self.rise)} to {100 * self.share:.2f} % against"
            f" {self.versus}, limit {points(self.limit)}{worst}"
        )


@dataclass(frozen=True, kw_only=True)
class ExpertsUncounted(Fact):
    """An importance matrix has one count for all experts of a layer."""

    imatrix: str
    layer: int

    def __str__(self) -> str:
        return (
            f"importance matrix {self.imatrix!r} has one count for all experts of layer"
            f" {self.layer}, so it is unknown what each saw; make it anew with a current"
            " llama-imatrix, or set imatrix_min_tokens_per_expert = 0"
        )


@dataclass(frozen=True, kw_only=True)
class WithoutExperts(Fact):
    """A dense model's importance matrix."""

    imatrix: str

    def __str__(self) -> str:
        return f"importance matrix {self.imatrix!r}: {NO_EXPERTS}"


@dataclass(frozen=True, kw_only=True)
class Coverage(Fact):
    """How many experts saw too few tokens, and the one that saw fewest."""

    imatrix: str
    least: Expert
    below: int
    experts: int
    limit: float

    def __str__(self) -> str:
        name = f"importance matrix {self.imatrix!r}"
        if not self.below:
            return f"{name}: {self.least.name} saw least of {self.experts}, limit {self.limit:,}"
        return (
            f"{name}: {self.below} of {self.experts} experts saw fewer than {self.limit:,} tokens,"
            f" least {self.least.name}; take a longer text, or one that needs them"
        )

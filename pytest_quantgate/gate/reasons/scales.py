"""How perplexity and divergence are shown in reasons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.gate.reasons.words import percent


@dataclass(frozen=True, kw_only=True)
class Scale(ABC):
    """How a metric is shown: its name, and an estimate's unit turned into what is printed."""

    metric: str
    name: str

    def shown(self, estimate: float) -> float:
        """Return an estimate in the unit that is printed."""
        return estimate

    @abstractmethod
    def text(self, value: float) -> str:
        """Write a value, a change with its sign."""

    def size(self, value: float) -> str:
        """Write a change without its sign."""
        return self.text(value)

    def points(self, value: float) -> str:
        """Write half the width of an interval, which has no other sign than ±."""
        return self.size(value)


class _RelativeChange(Scale):
    """A difference of log-likelihoods, shown as a relative change."""

    def shown(self, estimate: float) -> float:
        return stats.ppl_change(estimate)

    def text(self, value: float) -> str:
        return percent(value)

    def size(self, value: float) -> str:
        return f"{100 * value:.2f} %"

    def points(self, value: float) -> str:
        return f"{100 * value:.2f} points"


class _Share(Scale):
    def text(self, value: float) -> str:
        return f"{100 * value:.2f} %"


class _Nats(Scale):
    def text(self, value: float) -> str:
        return f"{value:.3g} nats"


@dataclass(frozen=True, kw_only=True)
class _KldChange(Scale):
    """A change of the mean divergence from what it was."""

    before_nats: float

    def text(self, value: float) -> str:
        return f"{value:+.3g} nats".replace("-", "−")

    def size(self, value: float) -> str:
        share = f", {100 * value / self.before_nats:.3g} %" if self.before_nats > 0 else ""
        return f"{self.points(value)}{share}"

    def points(self, value: float) -> str:
        return f"{value:.3g} nats"


PPL = _RelativeChange(metric="perplexity", name="PPL")
KLD = _Nats(metric="divergence", name="mean KLD")
OTHER_TOP = _Share(metric="divergence", name="share of tokens with another top token")


def kld_change(before_nats: float) -> Scale:
    """Return how a change of the mean divergence from what it was is shown."""
    return _KldChange(metric=KLD.metric, name=KLD.name, before_nats=before_nats)

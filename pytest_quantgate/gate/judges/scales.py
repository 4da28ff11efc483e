"""How perplexity and divergence are shown in reasons."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.gate.judges.bounds import Scale
from pytest_quantgate.gate.observation import percent

PPL = Scale(
    metric="perplexity",
    name="PPL",
    shown=stats.ppl_change,
    text=percent,
    size=lambda x: f"{100 * x:.2f} %",
    points=lambda x: f"{100 * x:.2f} points",
)


def _plain_nats(nats: float) -> str:
    return f"{nats:.3g} nats"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


KLD = Scale(
    metric="divergence",
    name="mean KLD",
    shown=float,
    text=_plain_nats,
    size=_plain_nats,
    points=_plain_nats,
)
OTHER_TOP = Scale(
    metric="divergence",
    name="share of tokens with another top token",
    shown=float,
    text=_percent,
    size=_percent,
    points=_percent,
)


def kld_change(before_nats: float) -> Scale:
    """Return how a change of the mean divergence from what it was is shown."""

    def with_share(nats: float) -> str:
        share = f", {100 * nats / before_nats:.3g} %" if before_nats > 0 else ""
        return f"{_plain_nats(nats)}{share}"

    return replace(KLD, text=lambda nats: f"{nats:+.3g} nats".replace("-", "−"), size=with_share)

"""A change of the runtime alone: the divergence from the reference decides with perplexity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.stats.decisions import Decision, Outcome, decide

if TYPE_CHECKING:
    from pytest_quantgate.stats.estimates import PairedEstimate
    from pytest_quantgate.stats.looks import Look

_HARMLESS_SHARE = 0.3  # of perplexity's limit: a rise of the mean divergence that is always allowed

PPL_ALLOWANCE = 4
"""How many times its limit perplexity may have risen, for all that is known, in a green cell."""


@dataclass(frozen=True, kw_only=True)
class RuntimeDecision:
    """What is decided of a runtime, and the decisions that it follows from.

    Attributes:
        outcome: of both.
        divergence: the change of the mean divergence against its limit.
        perplexity: the change of perplexity against its limit, for OUTSIDE.
        perplexity_allowance: the same against `PPL_ALLOWANCE` times that limit, for INSIDE.

    """

    outcome: Outcome
    divergence: Decision
    perplexity: Decision
    perplexity_allowance: Decision


def kld_limit_nats(
    kld_nats: float,
    ppl_limit_nats: float,
    allowed_share: float,
    *,
    least_nats: float | None = None,
) -> float:
    """Return how much a runtime may raise the mean divergence, in nats per token.

    A share of what it was, such as 0.03, but no more than perplexity's limit and no less than
    ``least_nats``, by default 0.3 of that: if the reference is the truth, the change of the
    mean divergence is the expectation of the change of ln PPL.
    """
    least = _HARMLESS_SHARE * ppl_limit_nats if least_nats is None else least_nats
    return min(max(allowed_share * kld_nats, least), ppl_limit_nats)


def decide_runtime_change(
    perplexity: PairedEstimate,
    divergence: PairedEstimate,
    *,
    ppl_limit_nats: float,
    kld_limit_nats: float,
    look: Look,
    identical: bool = False,
) -> RuntimeDecision:
    """Decide on a cell whose weights, metadata and reference are the baseline's.

    The same weights computed otherwise move single tokens at random, and by so much that 16 chunks
    cannot tell perplexity's change from its limit. The reference's whole distribution says more of
    each position than the token that followed: the standard error of the divergence's change is
    smaller by a factor of 2 to 16. So INSIDE needs the divergence inside its limit, and of
    perplexity only that a rise beyond `PPL_ALLOWANCE` times its limit is excluded. OUTSIDE is
    what is outside either limit, each with the look's α.

    Args:
        perplexity: the change of the negative log-likelihood, nats per token.
        divergence: the change of the KL divergence from the reference, nats per token.
        ppl_limit_nats: perplexity's limit.
        kld_limit_nats: the divergence's limit (see `kld_limit_nats`).
        look: which errors may be spent.
        identical: every per-token value of both is bit-equal.

    """

    def against(estimate: PairedEstimate, limit: float) -> Decision:
        return decide(
            estimate,
            limit,
            alpha_pass=look.alpha_pass,
            alpha_regressed=look.alpha_regressed,
            identical=identical,
            last_look=look.is_last,
        )

    moved = against(divergence, kld_limit_nats)
    strict = against(perplexity, ppl_limit_nats)
    allowance = against(perplexity, PPL_ALLOWANCE * ppl_limit_nats)
    if Outcome.NOT_FINITE in (moved.outcome, strict.outcome):
        outcome = Outcome.NOT_FINITE
    elif Outcome.OUTSIDE in (moved.outcome, strict.outcome):
        outcome = Outcome.OUTSIDE
    elif moved.outcome is allowance.outcome is Outcome.INSIDE:
        outcome = Outcome.INSIDE
    else:
        outcome = Outcome.UNDECIDED
    return RuntimeDecision(
        outcome=outcome, divergence=moved, perplexity=strict, perplexity_allowance=allowance
    )

"""Changes that need a look though no limit is broken: tensors of other types, quality kept."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate.gate.reasons.changes import LimitsKept
from pytest_quantgate.results.verdicts import Against, Judgement, VerdictKind

_OF_QUALITY = frozenset({"perplexity", "divergence"})
"""The metrics whose limits show that a file of other types is no worse."""


def settle_changes(judgements: list[Judgement], *, is_final: bool) -> list[Judgement]:
    """Return the judgements with CHANGED only where the quality is shown to be kept.

    A change of types that breaks another limit, or whose quality was not judged against the
    baseline or cannot be told, is REGRESSED. While a later look may tell, it stays CHANGED, which
    what is INCONCLUSIVE outranks.
    """
    changed = [item for item in judgements if item.verdict is VerdictKind.CHANGED]
    others = [item for item in judgements if item.verdict is not VerdictKind.CHANGED]
    kept = [
        item
        for item in others
        if item.metric in _OF_QUALITY and item.against is Against.BASELINE and item.verdict.is_green
    ]
    red = {item.verdict for item in others if not item.verdict.is_green}
    if not changed or (red == {VerdictKind.INCONCLUSIVE} and not is_final):
        return judgements
    if red or not kept:
        settled = [replace(item, verdict=VerdictKind.REGRESSED) for item in changed]
    else:
        fact = LimitsKept(reasons=tuple(item.reason for item in kept))
        settled = [replace(item, reason=item.reason.also(fact)) for item in changed]
    return [*settled, *others]

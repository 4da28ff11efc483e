"""The report of published claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Table,
    row,
    strong,
    words,
)
from pytest_quantgate.reports.claims.judging import Finding, Outcome
from pytest_quantgate.reports.words import NONE


def summary(findings: Sequence[Finding]) -> str:
    """Count the claims by what is said of them."""
    counts = Counter(finding.outcome for finding in findings)
    parts = [f"{counts[outcome]} {outcome.value}" for outcome in Outcome]
    return f"{len(findings)} claims: {', '.join(parts)}"


def claims_list(title: str, findings: Sequence[Finding]) -> list[Block]:
    """Return the findings for a terminal, the contradicted first."""
    order = (Outcome.CONTRADICTED, Outcome.REPRODUCED, Outcome.NOT_MEASURABLE)
    ordered = sorted(findings, key=lambda finding: order.index(finding.outcome))
    return [
        Heading(text=title, level=1),
        Paragraph(text=summary(findings)),
        Bullets(
            items=tuple(f"{item.outcome.value}: {item.claim.says}" for item in ordered),
            below=tuple(
                (f"{item.why}{f'; measured: {item.measured}' if item.measured else ''}",)
                for item in ordered
            ),
        ),
    ]


def claims_table(title: str, findings: Sequence[Finding]) -> list[Block]:
    """Return the findings as a table, in the file's order."""
    headings = ("claim", "published", "measured here", "outcome", "why")
    return [
        Heading(text=title, level=1),
        Paragraph(text=f"{summary(findings)}."),
        Table(
            columns=tuple(map(words, headings)),
            rows=tuple(
                row(
                    item.claim.says,
                    item.claim.figure or NONE,
                    item.measured or NONE,
                    (strong(item.outcome.value),),
                    item.why,
                )
                for item in findings
            ),
        ),
    ]

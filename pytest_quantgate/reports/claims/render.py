"""The report of published claims, for the terminal and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_quantgate.reports.claims.judging import Finding, Outcome


def summary(findings: Sequence[Finding]) -> str:
    """Count the claims by what is said of them."""
    counts = Counter(finding.outcome for finding in findings)
    parts = [f"{counts[outcome]} {outcome.value}" for outcome in Outcome]
    return f"{len(findings)} claims: {', '.join(parts)}"


def claim_lines(title: str, findings: Sequence[Finding]) -> list[str]:
    """Lay the findings out for a terminal, the contradicted first."""
    lines = [title, summary(findings)]
    for outcome in (Outcome.CONTRADICTED, Outcome.REPRODUCED, Outcome.NOT_MEASURABLE):
        for finding in findings:
            if finding.outcome is outcome:
                measured = f"; measured: {finding.measured}" if finding.measured else ""
                lines += [
                    f"{outcome.value}: {finding.claim.says}",
                    f"    {finding.why}{measured}",
                ]
    return lines


def claims_markdown(title: str, findings: Sequence[Finding]) -> str:
    """Write the findings as a Markdown table, in the file's order."""
    lines = [
        f"# {title}",
        "",
        f"{summary(findings)}.",
        "",
        "| claim | published | measured here | outcome | why |",
        "|---|---|---|---|---|",
    ]
    for finding in findings:
        claim = finding.claim
        columns = (
            claim.says,
            claim.figure or "–",
            finding.measured or "–",
            f"**{finding.outcome.value}**",
            finding.why,
        )
        lines.append("| " + " | ".join(column.replace("|", "\\|") for column in columns) + " |")
    return "\n".join(lines) + "\n"

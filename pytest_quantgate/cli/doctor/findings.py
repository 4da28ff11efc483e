"""What an examination says: sections of lines, and numbered findings with how to fix them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pytest_quantgate.errors import QuantgateError

VERSION = 1
"""Of the JSON that :func:`to_json` gives."""


class Severity(StrEnum):
    """Whether a run will be red or impossible for it, or only slower or less sure."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, in one line; ``mend`` is the command, "" where ``what`` says all."""

    severity: Severity
    what: str
    mend: str = ""


@dataclass(kw_only=True)
class Section:
    """One part of the examination: ``lines`` for people, ``facts`` plain values for programs."""

    name: str
    lines: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def say(self, *lines: str) -> None:
        """Add lines for people."""
        self.lines += lines

    def error(self, what: str | Exception, mend: str = "") -> None:
        """Add a finding that makes the examination fail; see :meth:`find`."""
        self.find(Severity.ERROR, what, mend)

    def warn(self, what: str | Exception, mend: str = "") -> None:
        """Add a finding that does not make it fail; see :meth:`find`."""
        self.find(Severity.WARNING, what, mend)

    def find(
        self, severity: Severity, what: str | Exception, mend: str = "", lead: str = ""
    ) -> None:
        """Add a finding; an error's command is how to fix it, unless ``mend`` is better.

        Args:
            severity: how grave it is.
            what: an error, or what is wrong in words, of which the first line is taken.
            mend: the command that fixes it.
            lead: what stands before an error's words, such as ``engine 'cuda': ``.

        """
        text = str(what)
        if isinstance(what, QuantgateError):
            text, mend = what.problem, mend or what.command
        line = text.strip().partition("\n")[0]
        self.findings.append(Finding(severity=severity, what=f"{lead}{line}", mend=mend))

    def printed(self) -> list[str]:
        """Return the section as it is printed."""
        return [self.name, *(f"  {line}" for line in self.lines), ""]


def finding_lines(sections: Iterable[Section]) -> list[str]:
    """Return all findings, numbered, errors first."""
    findings = sorted(
        (finding for section in sections for finding in section.findings),
        key=lambda finding: finding.severity is not Severity.ERROR,
    )
    lines = []
    for number, finding in enumerate(findings, 1):
        lines.append(f"{number}. {finding.severity}: {finding.what}")
        if finding.mend:
            lines.append(f"   {finding.mend}")
    return lines or ["nothing is wrong"]


def is_well(sections: Iterable[Section]) -> bool:
    """Return whether there is no error; a warning is none."""
    return not any(
        finding.severity is Severity.ERROR for section in sections for finding in section.findings
    )


def to_json(sections: Sequence[Section]) -> dict[str, Any]:
    """Return all of it as plain values."""
    return {
        "version": VERSION,
        "is_well": is_well(sections),
        "sections": [asdict(section) for section in sections],
    }

"""What to do about a red cell: a command or a setting, by its verdict."""

from __future__ import annotations

from pytest_quantgate.reports.blocks import Span, code
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.verdicts import Against, VerdictKind

_COMMAND = "pytest --quant-matrix"

_STORED = frozenset({Against.BASELINE, Against.ANCHOR})
"""What a judgement is against where accepting the new figures ends it."""


def next_step(cell: CellRecord, record: RunRecord) -> tuple[str | Span, ...]:
    """Return what to type or to set, as prose."""
    accept = code(f'{record.command or _COMMAND} --snapshot-update --quant-reason "why"')
    match cell.kind:
        case VerdictKind.REGRESSED | VerdictKind.INVALID if not _is_of_baseline(cell):
            return ("take a larger format, or raise the limit in the profile",)
        case VerdictKind.REGRESSED:
            return ("fix the cause, or accept the change: ", accept)
        case VerdictKind.CHANGED:
            return ("if the other tensor types are intended, accept them: ", accept)
        case VerdictKind.SUSPICIOUS:
            return ("find out what became better; if it is right, accept it: ", accept)
        case VerdictKind.NO_BASELINE:
            return ("store what was measured: ", accept)
        case VerdictKind.NOT_COMPARABLE:
            return ("restore what differs, or store a new baseline: ", accept)
        case VerdictKind.INCONCLUSIVE:
            return _more_to_score(cell)
        case VerdictKind.UNSUPPORTED:
            setting = code(f'optional = ["{cell.format}"]')
            return ("leave the format out, or list it as ", setting, " in the profile")
        case VerdictKind.TIMEOUT:
            return ("see whether this machine is busy: ", code("quantgate doctor"))
        case _:
            return ("examine engine and machine: ", code("quantgate doctor"))


def _is_of_baseline(cell: CellRecord) -> bool:
    red = [item.against for item in cell.judgements if item.verdict is cell.kind]
    return not red or any(against in _STORED for against in red)


def _more_to_score(cell: CellRecord) -> tuple[str | Span, ...]:
    """Return how to get what would decide: more of this text, and where it ends another one."""
    have, in_text = len(cell.chunks), cell.n_chunks_in_text
    if in_text is not None and have >= in_text:
        return ("the text ends here: add another to ", code("texts"), ", or widen the limit")
    more = max((item.more_chunks or 0 for item in cell.judgements), default=0)
    if not more:
        return ("measure more: a larger ", code("baseline_chunks"), " in the profile")
    needed = have + more if in_text is None else min(have + more, in_text)
    steps = ("measure more: ", code(f"baseline_chunks = {needed}"), " in the profile")
    if needed < have + more:
        return (*steps, f"; about {have + more} would decide: add another text to ", code("texts"))
    return steps

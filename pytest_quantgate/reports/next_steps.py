"""What to do about a red cell: a command or a setting, by its verdict."""

from __future__ import annotations

from pytest_quantgate.reports.blocks import Span, code
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.verdicts import VerdictKind

_COMMAND = "pytest --quant-matrix"

_STORED = ("baseline", "anchor")
"""What a judgement is against where accepting the new figures ends it."""


def next_step(cell: CellRecord, record: RunRecord) -> tuple[str | Span, ...]:
    """Return what to type or to set, as prose."""
    accept = code(f'{record.command or _COMMAND} --snapshot-update --quant-reason "why"')
    match cell.kind:
        case VerdictKind.REGRESSED | VerdictKind.INVALID if not _is_of_baseline(cell):
            return ("take a larger format, or raise the limit in the profile",)
        case VerdictKind.REGRESSED:
            return ("mend the cause, or accept the change: ", accept)
        case VerdictKind.NO_BASELINE:
            return ("store what was measured: ", accept)
        case VerdictKind.NOT_COMPARABLE:
            return ("restore what differs, or store a new baseline: ", accept)
        case VerdictKind.INCONCLUSIVE:
            return _more_chunks(cell)
        case VerdictKind.UNSUPPORTED:
            setting = code(f'optional = ["{cell.format}"]')
            return ("leave the format out, or list it as ", setting, " in the profile")
        case VerdictKind.TIMEOUT:
            return ("see whether this machine is busy: ", code("quantgate doctor"))
        case _:
            return ("examine engine and machine: ", code("quantgate doctor"))


def _is_of_baseline(cell: CellRecord) -> bool:
    red = [item.against for item in cell.judgements if item.verdict is cell.kind]
    return not red or any(against.startswith(_STORED) for against in red)


def _more_chunks(cell: CellRecord) -> tuple[str | Span, ...]:
    more = max((item.more_chunks or 0 for item in cell.judgements), default=0)
    if not more:
        return ("measure more: a larger ", code("chunks"), " in the profile")
    needed = len(cell.chunks) + more
    if cell.n_chunks_in_text is not None and needed > cell.n_chunks_in_text:
        return (
            f"{needed} chunks would probably decide, the text has {cell.n_chunks_in_text}:",
            " take a longer one",
        )
    return ("measure more: ", code(f"chunks = {needed}"), " in the profile")

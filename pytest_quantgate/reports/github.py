"""A run's record as GitHub shows it: a step's summary, annotations, a pull request's comment.

Escaping is that of GitHub's own runner: in a message ``%``, carriage return and line feed, in a
property ``:`` and ``,`` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_quantgate.gate.compare.comparison import compare_engines
from pytest_quantgate.reports.blocks import Block, Folded, Heading, Paragraph, plain, section
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.noise import noise_tables
from pytest_quantgate.reports.red import red_blocks
from pytest_quantgate.reports.run_report import completeness, run_title
from pytest_quantgate.reports.run_tables import run_tables
from pytest_quantgate.reports.upgrade.report import upgrade_blocks
from pytest_quantgate.reports.words import printable
from pytest_quantgate.reports.write import MOST_CHARACTERS, run_markdown
from pytest_quantgate.results.record import RunRecord

MAX_SUMMARY_BYTES = 1 << 20
"""A step's summary, above which GitHub shows none of it."""

MAX_ANNOTATIONS = 10
"""Annotations of one kind that GitHub shows of a step."""

_SHORTENED = "\n\n(Shortened: the run record has all of it.)\n"


def escape_message(text: str) -> str:
    """Write a text as a workflow command's message: one line, that no other command can leave."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Write a text as a workflow command's property, such as its title."""
    return escape_message(text).replace(":", "%3A").replace(",", "%2C")


def annotation_lines(record: RunRecord) -> list[str]:
    """Return an error for each red or missing cell and a warning for each note.

    At most ``MAX_ANNOTATIONS`` of a kind: the last one of more says how many are left out.
    """
    errors = [
        (f"{cell.id} {cell.verdict}", "\n".join(filter(None, (cell.reason, str(cell.cause or "")))))
        for cell in record.cells
        if cell.is_red
    ]
    errors += [("Missing", what) for what in record.missing]
    warnings = [("quantgate", warning) for warning in record.warnings]
    warnings += [(cell.id, note) for cell in record.cells for note in cell.notes]
    warnings += [
        (table.title, plain(note)) for table in noise_tables(record) for note in table.notes
    ]
    return [*_commands("error", errors), *_commands("warning", warnings)]


def _commands(kind: str, messages: Sequence[tuple[str, str]]) -> list[str]:
    shown = list(messages)
    if len(shown) > MAX_ANNOTATIONS:
        more = len(shown) - MAX_ANNOTATIONS + 1
        shown[MAX_ANNOTATIONS - 1 :] = [("quantgate", f"and {more} more: see the summary")]
    return [
        f"::{kind} title={escape_property(printable(title))}::{escape_message(printable(message))}"
        for title, message in shown
    ]


def summary(record: RunRecord, room_bytes: int = MAX_SUMMARY_BYTES) -> str:
    """Return the report for a step's summary, in at most ``room_bytes`` of UTF-8.

    One that is longer has the red cells alone, and if that is too long, what of it has room.
    """
    text = run_markdown(record)
    if len(text.encode()) <= room_bytes:
        return text
    red = tuple(cell for cell in record.cells if cell.is_red)
    heading = text.partition("\n")[0]
    rest = run_markdown(replace(record, cells=red)).partition("\n")[2]
    return _cut(f"{heading}\n{rest}", room_bytes)


def _cut(text: str, room_bytes: int) -> str:
    """Keep the whole lines that have room beside the word that there were more."""
    kept = text.encode()[: max(0, room_bytes - len(_SHORTENED.encode()))]
    whole = kept[: kept.rfind(b"\n") + 1].decode()
    return f"{whole.rstrip()}{_SHORTENED}" if whole else ""


_COMMENT_CHARACTERS = MOST_CHARACTERS - 1024
"""Characters of a comment, less what stands around the report in it."""


def comment(record: RunRecord, baseline_changes: Sequence[Block] = ()) -> str:
    """Return what a reviewer needs in a pull request: verdict, changes of baselines, all cells.

    ``baseline_changes`` are blocks below a heading of their own. What has no room is left out from
    the end: the folded tables first.
    """
    comparison = compare_engines(record)
    if comparison is None:
        lead = [*run_title(record), *completeness(record)]
        lead += section("What is red", red_blocks(record))
    else:
        title, *rest = upgrade_blocks(comparison)
        lead = [title, *completeness(record), *rest]
    review = [
        replace(block, level=block.level + 1) if isinstance(block, Heading) else block
        for block in baseline_changes
    ]
    tables = Folded(summary="All cells", blocks=run_tables(record))
    for blocks in ([*lead, *review, tables], [*lead, *review]):
        text = markdown(blocks)
        if len(text) <= _COMMENT_CHARACTERS:
            return text
    text = markdown([*lead, Paragraph(text="The changed baselines have no room here."), *review])
    return _cut(text, _COMMENT_CHARACTERS)

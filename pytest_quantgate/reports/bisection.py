"""What a bisection found, as a report that can be sent upstream."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_quantgate.diagnosis.bisect.answers import Answer
from pytest_quantgate.diagnosis.bisect.search import Bisection
from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Table,
    code,
    row,
    spans,
    words,
)

_MOST_SUSPECTS = 8


def bisection_blocks(
    found: Bisection,
    describe: Callable[[str], str],
    *,
    cell: str,
    good: str,
    commands: Sequence[str],
) -> list[Block]:
    """Return the first bad release or commit, the shift on both sides, and how to see it.

    Args:
        found: the bisection.
        describe: returns what a candidate is known by.
        cell: what was measured.
        good: what the good end is known by.
        commands: what shows the difference.

    """
    after, before = found.after, found.before
    rows = [
        row("good end", good, "0", ""),
        *([row("before", "the last good one that was asked", *_figures(before))] if before else []),
        row("after", describe(found.suspects[-1]), *_figures(after), is_red=True),
    ]
    return [
        Paragraph(text=_answer(found, describe), is_strong=True),
        Paragraph(text=f"{cell}: {after.reason}"),
        Table(
            columns=(words(""), words("what"), words("ΔPPL"), words("by")),
            rows=tuple(rows),
            title="The shift on both sides, against the good end",
        ),
        Heading(text="To see it"),
        Bullets(items=tuple(spans(code(command)) for command in commands)),
    ]


def _answer(found: Bisection, describe: Callable[[str], str]) -> str:
    if len(found.suspects) == 1:
        return f"First bad: {describe(found.suspects[0])}"
    named = ", ".join(describe(name) for name in found.suspects[:_MOST_SUSPECTS])
    more = len(found.suspects) - _MOST_SUSPECTS
    rest = f" and {more} more" if more > 0 else ""
    count = len(found.suspects)
    return f"The first bad is one of {count}; the others could not be asked: {named}{rest}"


def _figures(answer: Answer) -> tuple[str, str]:
    shift = "–" if answer.shift is None else f"{100 * answer.shift:+.3f} %"
    return shift, answer.half

"""The code blocks of README and the documentation, with what comments before them say.

A comment stands on the line before a block, and a reader of the built page does not see it:

``<!-- not run: REASON -->``
    the commands need a network, a GPU, minutes, or something that a test has not
``<!-- run in: FOLDER -->``
    they run in a prepared folder (``test_commands.FOLDERS``) instead of an empty one
``<!-- slow -->``
    they measure: the slow tier runs them
``<!-- exit status: N -->``
    they end with N instead of 0
``<!-- output -->``
    the block is what the commands above print, in this order, in whole lines; ``…`` at the end of a
    line stands for its rest
``<!-- file: NAME -->``, ``<!-- file: NAME, from LINE -->``
    the block is a file that a reader writes, or replaces it from that line on
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "docs" / "index.md",
        *(ROOT / "docs").glob("*/*.md"),
    ]
)
TUTORIAL = ROOT / "docs" / "tutorial" / "getting-started.md"

_BLOCK = re.compile(
    r"(?:^<!-- (?P<comment>[^>]+) -->\n)?^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_COMMAND = re.compile(r"^(pytest|quantgate|pip|python|cmake|hf|git|tox|export) ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A code block; ``comment`` is what stands before it, "" where nothing does."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def id(self) -> str:
        """Where it is."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_commands(self) -> bool:
        """Whether it is typed in a shell."""
        return self.language == "sh"

    @property
    def looks_like_commands(self) -> bool:
        """Whether a block of no language is one of commands all the same."""
        return self.language == "" and _COMMAND.search(self.text) is not None

    def said(self, what: str) -> str | None:
        """Return what the comment says of a matter, such as ``not run``; "" for yes."""
        for part in self.comment.split("; "):
            name, _, value = part.partition(": ")
            if name == what:
                return value
        return None


def blocks(page: Path) -> Iterator[Block]:
    """Return the code blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        yield Block(
            page=page,
            line=text.count("\n", 0, match.start("text")),
            language=match["language"],
            text=match["text"],
            comment=match["comment"] or "",
        )

"""The page of errors has every verdict with what to type next, in commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_quantgate.plugin.options import add_options
from pytest_quantgate.results.verdicts import VerdictKind

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """Return a section's table by its first column, without the heading's row."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|\n ") for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]
    return {row[0].strip("`"): row for row in cells}


def test_every_verdict_is_on_the_page_with_what_comes_next_and_no_other() -> None:
    table = rows("The verdicts")
    assert table.keys() == {kind.value for kind in VerdictKind}
    assert all(following for _, following in table.values())


def test_the_options_that_it_types_exist() -> None:
    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    known = {name for option in parser._anonymous.options for name in option.names()}
    known |= {
        name for group in parser._groups for option in group.options for name in option.names()
    }
    of_the_command = {"--quick", "--engine"}
    typed = set(re.findall(r"--[a-z][\w-]+", PAGE)) - of_the_command - {"--snapshot-update"}
    assert typed <= known


def test_the_page_is_linked() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert re.search(r"^reference/errors$", index, re.MULTILINE)

"""Every relative link leads to a file, and every page is in the table of contents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")
SECTIONS = ("tutorial", "how-to", "reference", "explanation")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_a_section_that_the_first_page_lists() -> None:
    """A new page needs no edit of the first one, which takes each folder as a whole."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    loose = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    assert loose == set()
    assert [name for name in SECTIONS if f"\n{name}/*\n" not in index] == []

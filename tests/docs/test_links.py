"""Every relative link leads to a file, and every page is in the table of contents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_on_the_first_page_or_in_a_folder_that_is_there_as_a_whole() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    pages = [page.relative_to(DOCS).with_suffix("") for page in DOCS.glob("**/*.md")]
    listed = [page for page in pages if {str(page), f"{page.parent}/*"} & {*index}]
    rest = {
        str(page) for page in pages if page not in listed and page.parts[-2:-1] != ("releases",)
    }
    assert rest == {"index"}

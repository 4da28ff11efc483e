"""The page of errors has every verdict with what to type next, in commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_quantgate import errors
from pytest_quantgate.gate.recording import verdict_of
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


def classes(base: type[Exception] = errors.QuantgateError) -> list[type[Exception]]:
    """Return an error class of the package and all below it."""
    below = [kind for kind in base.__subclasses__() if kind.__module__ == errors.__name__]
    return [base, *(item for kind in below for item in classes(kind))]


def test_every_error_has_its_exit_status_or_verdict_and_what_comes_next() -> None:
    """What becomes a verdict has the verdict's line; what ends the run, a paragraph here."""
    assert errors.__doc__ is not None
    in_tree = re.findall(r"── (\w+)", errors.__doc__)
    assert sorted(kind.__name__ for kind in classes()) == sorted(["QuantgateError", *in_tree])
    paragraphs = dict(re.findall(r"^`(\w+)`\n: (.*?)(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL))
    verdicts = rows("The verdicts")
    for kind in classes():
        if kind in (errors.QuantgateError, errors.CellError):
            continue  # only the classes below them are raised as such
        if issubclass(kind, errors.CellError) and kind.__name__ not in paragraphs:
            assert verdicts[verdict_of(kind()).value][1], kind
        else:
            assert "`quantgate" in paragraphs[kind.__name__], kind
    assert "exits with 4" in paragraphs["ConfigError"]


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

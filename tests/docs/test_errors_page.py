"""The page of errors has every class and every verdict, with what to type next."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_quantgate import errors
from pytest_quantgate.plugin.options import add_options
from pytest_quantgate.results.verdicts import VerdictKind

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.QuantgateError)
}


def rows(heading: str) -> dict[str, list[str]]:
    """Return a section's table by its first column, without the heading's row."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|\n ") for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]
    return {row[0].strip("`"): row for row in cells}


def test_every_class_is_on_the_page_and_no_other() -> None:
    assert rows("The tree").keys() == CLASSES.keys()


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "QuantgateError"])
def test_a_class_says_where_it_ends_and_what_to_type(name: str) -> None:
    row = rows("The tree")[name]
    assert len(row) == 4
    assert all(row)
    parent = CLASSES[name].__base__
    assert parent is not None
    if parent not in {errors.QuantgateError, errors.CellError}:
        assert f"a `{parent.__name__}`" in row[1], "it names what it is a kind of"


def test_every_verdict_is_on_the_page_with_its_colour_and_no_other() -> None:
    table = rows("The verdicts")
    assert table.keys() == {kind.value for kind in VerdictKind}
    for kind in VerdictKind:
        _, colour, following = table[kind.value]
        assert colour.startswith("green" if kind.is_green else "red")
        assert following


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

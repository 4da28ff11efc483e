"""The pages name every setting, option and keyword, and none that there is not."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from pytest_quantgate.config import schema, shape
from pytest_quantgate.config.options import OPTIONS
from pytest_quantgate.config.values import Table

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*/*.md"), ROOT / "docs" / "index.md", ROOT / "README.md"])
CONFIGURATION = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")


def test_every_table_of_the_configuration_is_on_its_page() -> None:
    """Its keys come from the schema when the page is built, which fails without a description."""
    fields = schema.Tables.model_fields.values()
    tables = {arguments[-1] for field in fields if (arguments := get_args(field.annotation))}
    names = {item.__name__ for item in tables if isinstance(item, type) and issubclass(item, Table)}
    shown = re.findall(r"^```\{reference\} settings (\w+)$", CONFIGURATION, re.MULTILINE)
    assert len(names) >= 7
    assert {*shown} == names | {"Tables"}


@pytest.mark.parametrize("module", [schema, shape], ids=lambda module: module.__name__)
def test_every_setting_has_a_docstring_below_it_which_becomes_its_line(module: ModuleType) -> None:
    """But for the tables of tables, which have a heading of their own."""
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    bare, described = set(), 0
    for table in tree.body:
        if not isinstance(table, ast.ClassDef) or not table.name.endswith(("Settings", "Tables")):
            continue
        for field, below in pairwise([*table.body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign):
                has_docstring = isinstance(below, ast.Expr) and isinstance(
                    below.value, ast.Constant
                )
                described += has_docstring
                if not has_docstring and "Mapping[str, " not in ast.unparse(field.annotation):
                    bare.add(f"{table.name}.{ast.unparse(field.target)}")
    assert described > 10
    assert bare == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_option_that_there_is_not(page: Path) -> None:
    named = set(re.findall(r"--quant-[a-z-]+[a-z]", page.read_text(encoding="utf-8")))
    assert named <= {option.flag for option in OPTIONS}


def examples() -> Iterator[tuple[str, str]]:
    """Return each example of a configuration, and its page."""
    for page in PAGES:
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield page.name, block


@pytest.mark.parametrize(("page", "block"), [*examples()])
def test_every_example_of_a_configuration_can_be_read(page: str, block: str) -> None:
    quantgate = tomllib.loads(block)["tool"]["quantgate"]
    profiles = quantgate.get("profiles", {}).values()
    for profile in profiles:
        profile.setdefault("models", ["mine"])  # an example may show a part of it
    assert schema.Tables.model_validate(quantgate).model_fields_set == set(quantgate), page

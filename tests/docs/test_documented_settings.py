"""The pages name every setting, option and keyword, and none that there is not."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.config import schema
from pytest_quantgate.config.limit_table import LIMITS, MARKERS, Limit, Metric, Value
from pytest_quantgate.config.options import OPTIONS
from pytest_quantgate.config.values import parse_relative

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*/*.md"), ROOT / "docs" / "index.md", ROOT / "README.md"])
CONFIGURATION = "reference/configuration.md"

TABLES: dict[str, tuple[str, type[schema.Table]]] = {
    "## `[tool.quantgate]`": (CONFIGURATION, schema.Tables),
    "## `[tool.quantgate.models.NAME]`": (CONFIGURATION, schema.ModelSettings),
    "## `[tool.quantgate.texts.NAME]`": (CONFIGURATION, schema.TextSettings),
    "## `[tool.quantgate.imatrices.NAME]`": (CONFIGURATION, schema.ImatrixSettings),
    "## `[tool.quantgate.devices.NAME]`": (CONFIGURATION, schema.DeviceSettings),
    "## `[tool.quantgate.engines.NAME]`": (CONFIGURATION, schema.EngineSettings),
    "## `[tool.quantgate.formats.NAME]`: recipes": (CONFIGURATION, schema.RecipeSettings),
    "## `[tool.quantgate.profiles.NAME]`": (CONFIGURATION, schema.ProfileSettings),
    "## Limits": (CONFIGURATION, schema.Limits),
    "## A shape of your own": ("how-to/shapes.md", schema.ShapeSettings),
}
"""The heading under which a table's keys stand, its page, and what reads it."""


def rows(page: str, heading: str, first: str) -> Iterator[list[str]]:
    """Return the cells of a heading's table whose first column is called so."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    below = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    table = below.partition(f"\n| {first} |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" |")]


def words(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def keys(heading: str) -> list[str]:
    """Return the keys under a heading."""
    first = "limit" if heading == "## Limits" else "key"
    return [key for row in rows(TABLES[heading][0], heading, first) for key in words(row[0])]


def value(cell: str) -> Any:
    """Return a default that is written as TOML; None for words."""
    match = re.fullmatch(r"`([^`]+)`", cell)
    try:
        return tomllib.loads(f"it = {match[1]}")["it"] if match is not None else None
    except tomllib.TOMLDecodeError:
        return None  # the name of another key


@pytest.mark.parametrize("heading", TABLES)
def test_a_page_has_the_keys_of_a_table_and_no_others(heading: str) -> None:
    """A table of tables has headings of its own for these."""
    fields = set(TABLES[heading][1].model_fields)
    if heading == "## `[tool.quantgate]`":
        fields -= {
            name for name in fields if f"## `[tool.quantgate.{name}.NAME]`" in str([*TABLES])
        }
    found = keys(heading)
    assert sorted(found) == sorted(fields)


@pytest.mark.parametrize("heading", TABLES)
def test_a_default_that_is_written_out_is_the_default(heading: str) -> None:
    """Limits have theirs by format, and a margin is written in percent."""
    page, table = TABLES[heading]
    compared = 0
    for row in rows(page, heading, "key"):
        if len(row) < 4 or value(row[2]) is None:
            continue
        for name in words(row[0]):
            default = table.model_fields[name].default
            given = value(row[2])
            if isinstance(given, str) and given.endswith("%"):
                given = float(given.removesuffix("%")) / 100
            if name != "limits":
                assert (list(default) if isinstance(default, tuple) else default) == given, name
                compared += 1
    has_defaults = any(
        isinstance(field.default, str | int | float) and not isinstance(field.default, type)
        for field in table.model_fields.values()
    )
    assert compared > 0 or not has_defaults


def test_the_options_are_those_of_the_table() -> None:
    """With what each takes, and the setting that it stands instead of."""
    documented = {
        words(row[0])[0]: next(iter(words(row[1])), None)
        for row in rows(CONFIGURATION, "## Options", "option")
    }
    assert documented == {
        " ".join([option.flag, *([option.metavar] if option.metavar else [])]): option.instead_of
        for option in OPTIONS
    } | {"--snapshot-update": None}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_option_that_there_is_not(page: Path) -> None:
    named = set(re.findall(r"--quant-[a-z-]+[a-z]", page.read_text(encoding="utf-8")))
    assert named <= {option.flag for option in OPTIONS}


@pytest.mark.parametrize(
    "row", [*rows(CONFIGURATION, "## Limits", "limit")], ids=lambda row: words(row[0])[0]
)
def test_each_limit_stands_beside_the_keyword_and_the_default_of_the_table(row: list[str]) -> None:
    for name in words(row[0]):
        limit = LIMITS[name]
        metric = next(metric for metric in MARKERS.values() if limit in metric.limits)
        phase = "phase=…, " if limit.phase else ""
        keyword = [f"{metric.marker}({phase}{limit.keyword}=…)"] if limit.keyword else []
        assert words(row[1]) == keyword
        if not callable(limit.default):
            assert read_default(row[3].partition(",")[0], limit) == limit.default


def read_default(text: str, limit: Limit) -> float | None:
    """Return a default as the page writes it; relative ones stand in percent."""
    if limit.value in (Value.INCREASE, Value.DECREASE) and text != "none":
        return parse_relative(text.strip('`"'))
    return None if text == "none" else float(text)


@pytest.mark.parametrize("metric", MARKERS.values(), ids=lambda metric: metric.marker)
def test_the_page_of_markers_has_all_keywords(metric: Metric) -> None:
    text = (ROOT / "docs" / "reference" / "markers-and-fixtures.md").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", text)
    (found,) = re.findall(rf"`{metric.marker}\(([^)=]*)\)`", text)
    assert sorted(found.split(", ")) == sorted(metric.all_keywords)


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
